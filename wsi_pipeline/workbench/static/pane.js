// A slide in sight: OpenSeadragon below, a canvas above, a scale bar and the place under the pointer.

import { ask, make, number } from "./page.js";
import { Paper } from "./overlay.js";

export class Pane {
  // `draw` gets a Paper whenever the view changes; `spot` may take a drag or a click first.
  constructor(element, { slide, path, picture, draw, navigator = true }) {
    this.slide = slide;
    this.draw = draw;
    this.spot = null;
    this.canvas = make("canvas", { class: "overlay", "aria-hidden": "true" });
    this.place = make("p", { class: "place", "aria-hidden": "true" });
    this.scale = make("div", { class: "scale", hidden: true, "aria-hidden": "true" }, make("span"));
    this.element = make("div", { class: "pane" });
    element.append(this.element, this.place, this.scale);
    this.parts = [this.element, this.place, this.scale];
    const small = Math.max(0, slide.levels - Math.ceil(Math.log2(Math.max(slide.width, slide.height) / slide.side))); // of one tile
    const source = picture ? { type: "image", url: picture } : {
      width: slide.width, height: slide.height, tileSize: slide.side, tileOverlap: 0, minLevel: small, maxLevel: slide.levels,
      getTileUrl: (level, x, y) => `${path}/${level}/${x}_${y}.jpg` };
    this.viewer = OpenSeadragon({ element: this.element, tileSources: source, showNavigationControl: false, showNavigator: navigator && !picture,
      navigatorPosition: "TOP_RIGHT", navigatorSizeRatio: 0.16, navigatorBackground: "#fff", navigatorBorderColor: "#8d86a3", navigatorDisplayRegionColor: "#5b4bb7", navigatorOpacity: 0.95, drawer: "canvas", maxTilesPerFrame: 8, maxZoomPixelRatio: 8, animationTime: 0.4, gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: false } });
    this.viewer.canvas.append(this.canvas);
    if (!picture) this.viewer.addOnceHandler("tile-loaded", () => this.await(path));
    this.viewer.addOnceHandler("tile-drawn", () => performance.mark("slide seen"));
    this.viewer.addOnceHandler("open", () => this.viewer.world.getItemAt(0)
      .addOnceHandler("fully-loaded-change", () => performance.mark("slide sharp")));
    this.viewer.addHandler("update-viewport", () => this.redraw());
    this.viewer.addHandler("resize", () => this.redraw());
    // Letters are ours: OpenSeadragon would move, turn and flip the slide by some of them.
    this.viewer.addHandler("canvas-key", event => { event.preventDefaultAction = /^[a-z]$/i.test(event.originalEvent.key); });
    this.tracker = new OpenSeadragon.MouseTracker({ element: this.element, moveHandler: event => this.tell(event.position) });
    for (const [name, deed] of [["canvas-press", "press"], ["canvas-drag", "drag"], ["canvas-drag-end", "drop"], ["canvas-click", "click"], ["canvas-double-click", "twice"]])
      this.viewer.addHandler(name, event => {
        if (!this.spot || !this.viewer.world.getItemCount()) return;
        const at = this.viewer.viewport.viewerElementToImageCoordinates(event.position);
        if (this.spot[deed]?.(at.x, at.y, event)) event.preventDefaultAction = true;
      });
  }

  // A slide without a small level is a sketch first: once it is averaged its tiles are asked for anew.
  async await(path) {
    for (let tries = 0, sketch = false; this.viewer && (sketch || tries < 20); tries++) {
      const { share } = await ask(`${path}/share`).catch(() => ({ share: 1 }));
      if (!this.viewer) return;
      if (share === 1) {
        if (sketch) { this.viewer.world.resetItems(); this.place.textContent = ""; }
        return;
      }
      sketch ||= share > 0;
      if (sketch) this.place.textContent = `the overview is a sketch; ${Math.round(100 * share)} % of it is averaged`;
      await new Promise(done => setTimeout(done, 700));
    }
  }

  get ready() { return this.viewer && this.viewer.world.getItemCount() > 0; }

  whenOpen(work) { if (this.ready) work(); else this.viewer.addOnceHandler("open", work); }

  go(x, y, width, height, now = false) {
    this.viewer.viewport.fitBounds(this.viewer.viewport.imageToViewportRectangle(x, y, width, height), now);
  }

  tell(position) {
    if (!this.ready || this.slide.missing) return;
    const at = this.viewer.viewport.viewerElementToImageCoordinates(position), mpp = this.slide.mpp;
    this.place.textContent = mpp ? `${number(at.x * mpp)}, ${number(at.y * mpp)} µm` : `${number(at.x)}, ${number(at.y)} px`;
  }

  redraw() {
    if (!this.ready) return;
    const ratio = window.devicePixelRatio || 1, box = this.viewer.container.getBoundingClientRect();
    const wide = Math.round(box.width * ratio), high = Math.round(box.height * ratio);
    if (this.canvas.width !== wide || this.canvas.height !== high) {
      this.canvas.width = wide; this.canvas.height = high;
      this.canvas.style.width = `${box.width}px`; this.canvas.style.height = `${box.height}px`;
    }
    const zero = this.viewer.viewport.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0));
    const one = this.viewer.viewport.imageToViewerElementCoordinates(new OpenSeadragon.Point(1000, 0));
    this.perPixel = (one.x - zero.x) / 1000;
    this.drawScale();
    const started = performance.now();
    this.draw(new Paper(this.canvas, { scale: this.perPixel * ratio, left: zero.x * ratio, top: zero.y * ratio, ratio }));
    this.drawn = performance.now() - started;
  }

  drawScale() {
    const { mpp, missing } = this.slide;
    this.scale.hidden = !mpp || !!missing;
    if (this.scale.hidden) return;
    const longest = 160 / this.perPixel * mpp, power = 10 ** Math.floor(Math.log10(longest));
    const um = [5, 2, 1].map(each => each * power).find(each => each <= longest) ?? power;
    const bar = this.scale.firstElementChild;
    bar.style.width = `${um / mpp * this.perPixel}px`;
    bar.textContent = um >= 1000 ? `${number(um / 1000)} mm` : `${number(um)} µm`;
  }

  close() {
    this.tracker.destroy();
    this.viewer.destroy();
    this.parts.forEach(part => part.remove());
    this.viewer = null;
  }
}

// Two panes show the same place: the one under the pointer, or else the first, takes the other along.
export function together(one, other) {
  let leader = one;
  for (const [from, to] of [[one, other], [other, one]]) {
    const lead = () => { leader = from; };
    for (const event of ["pointerenter", "pointerdown", "wheel", "focusin"]) from.element.addEventListener(event, lead);
    from.viewer.addHandler("viewport-change", () => {
      if (leader !== from || !to.ready || !from.ready) return;
      const { viewport } = to.viewer, seen = from.viewer.viewport;
      viewport.zoomTo(seen.getZoom(true), null, true);
      viewport.panTo(seen.getCenter(true), true);
    });
  }
}
