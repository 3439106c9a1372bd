// Drawing an area by hand: drag around it, or click its corners; Enter, a double click or the end of the drag closes it.

export class Lasso {
  // `done` gets the ring, [[x, y], …] in level-0 px; `colour` says whether it adds or takes away.
  constructor(pane, { colour, done, ended }) {
    Object.assign(this, { pane, colour, done, ended, ring: [], dragging: false });
    pane.spot = this;
    pane.element.classList.add("drawing");
  }

  add(x, y) {
    const last = this.ring.at(-1), apart = last && Math.hypot(x - last[0], y - last[1]) * this.pane.perPixel;
    if (!last || apart >= 2) this.ring.push([x, y]);
    this.pane.redraw();
    return true;
  }

  press() { return true; }
  drag(x, y) { this.dragging = true; return this.add(x, y); }
  drop(x, y) { if (this.dragging) { this.add(x, y); this.close(); } this.dragging = false; return true; }
  click(x, y, event) { if (event.quick) this.add(x, y); return true; }
  twice() { this.close(); return true; }

  close() {
    const ring = this.ring;
    this.ring = [];
    this.pane.redraw();
    if (ring.length > 2) this.done(ring);
  }

  draw(paper) { if (this.ring.length) paper.outline([this.ring.flat()], this.colour, 1, { width: 3, filled: true, open: true }); }

  stop() {
    this.pane.spot = null;
    this.pane.element.classList.remove("drawing");
    this.pane.redraw();
    this.ended?.();
  }
}
