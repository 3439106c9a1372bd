// What lies over the slide, on a canvas: tiles by value, outlines, cores. Level-0 px in, pixels out.

const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const STEPS = 48; // colours of a scale: tiles of one are drawn together
const FINE = 8; // px a side, below which tiles have no rims

function shade(part) {
  const at = Math.min(1, Math.max(0, part)) * (VIRIDIS.length - 1), i = Math.min(Math.floor(at), VIRIDIS.length - 2);
  return VIRIDIS[i].map((low, channel) => Math.round(low + (at - i) * (VIRIDIS[i + 1][channel] - low)));
}

export class Tiles {
  constructor(told) {
    const [[ux, uy], [vx, vy]] = told.edges;
    Object.assign(this, told, { count: told.corners.length / 2, ux, uy, vx, vy, dropped: new Set(), values: {} });
    this.flagged = [...new Set(told.flags.flatMap(flag => flag.rows))].sort((a, b) => a - b);
    this.all = Array.from({ length: this.count }, (_, row) => row);
    this.cells = this.onGrid();
  }

  // Where tiles lie side by side, the column and row of each: then a layer is one small picture.
  onGrid() {
    const { corners, ux, uy, vx, vy, count } = this;
    if (uy || vx || !count) return null;
    let left = Infinity, top = Infinity, right = -Infinity, bottom = -Infinity;
    for (let row = 0; row < count; row++) {
      left = Math.min(left, corners[2 * row]); right = Math.max(right, corners[2 * row]);
      top = Math.min(top, corners[2 * row + 1]); bottom = Math.max(bottom, corners[2 * row + 1]);
    }
    const wide = Math.round((right - left) / ux) + 1, high = Math.round((bottom - top) / vy) + 1;
    const at = new Int32Array(count), taken = new Set();
    for (let row = 0; row < count; row++) {
      at[row] = Math.round((corners[2 * row + 1] - top) / vy) * wide + Math.round((corners[2 * row] - left) / ux);
      taken.add(at[row]);
    }
    return taken.size === count && wide * high < 4e6 ? { at, wide, high, left, top } : null; // overlapping ones share cells
  }

  at(x, y) {
    const { corners, ux, uy, vx, vy, count } = this, area = ux * vy - uy * vx;
    for (let row = 0; row < count; row++) {
      const dx = x - corners[2 * row], dy = y - corners[2 * row + 1];
      const a = (dx * vy - dy * vx) / area, b = (dy * ux - dx * uy) / area;
      if (a >= 0 && a < 1 && b >= 0 && b < 1) return row;
    }
    return null;
  }

  rowAt(x, y) { // of a tile's own coords
    for (let row = 0; row < this.count; row++) if (this.places[2 * row] === x && this.places[2 * row + 1] === y) return row;
    return null;
  }

  placeOf(row) { return this.places.slice(2 * row, 2 * row + 2); }

  paint(paper, layer, opacity) {
    const wide = layer.high - layer.low || 1;
    layer.colours ??= layer.values.map(value => value == null ? null : (value - layer.low) / wide);
    if (this.cells) return paper.picture(this.cells, layer.picture ??= this.picture(layer.colours), opacity, this);
    const steps = Array.from({ length: STEPS }, () => []);
    layer.colours.forEach((part, row) => {
      if (part != null) steps[Math.min(STEPS - 1, Math.max(0, Math.floor(part * STEPS)))].push(row);
    });
    steps.forEach((rows, i) => paper.fill(this, rows, `rgb(${shade((i + 0.5) / STEPS).join(" ")})`, opacity));
  }

  picture(parts) {
    const { at, wide, high } = this.cells, canvas = new OffscreenCanvas(wide, high);
    const data = new ImageData(wide, high);
    parts.forEach((part, row) => { if (part != null) data.data.set([...shade(part), 255], 4 * at[row]); });
    canvas.getContext("2d").putImageData(data, 0, 0);
    return canvas;
  }
}

export class Paper {
  constructor(canvas, { scale, left, top, ratio }) {
    Object.assign(this, { context: canvas.getContext("2d"), wide: canvas.width, high: canvas.height, scale, left, top, ratio });
    this.context.clearRect(0, 0, canvas.width, canvas.height);
  }

  x(value) { return this.left + value * this.scale; }
  y(value) { return this.top + value * this.scale; }

  path(tiles, rows) {
    const { context, scale, wide, high } = this, { corners } = tiles;
    const [a, b, c, d] = [tiles.ux, tiles.uy, tiles.vx, tiles.vy].map(each => each * scale);
    const reach = Math.abs(a) + Math.abs(b) + Math.abs(c) + Math.abs(d), straight = b === 0 && c === 0;
    context.beginPath();
    for (const row of rows) {
      const x = this.x(corners[2 * row]), y = this.y(corners[2 * row + 1]);
      if (x > wide + reach || y > high + reach || x < -reach || y < -reach) continue;
      if (straight) context.rect(x, y, a, d);
      else { context.moveTo(x, y); context.lineTo(x + a, y + b); context.lineTo(x + a + c, y + b + d); context.lineTo(x + c, y + d); context.closePath(); }
    }
  }

  fill(tiles, rows, colour, opacity) {
    if (!rows.length) return;
    this.path(tiles, rows);
    this.context.globalAlpha = opacity; this.context.fillStyle = colour; this.context.fill(); this.context.globalAlpha = 1;
  }

  stroke(tiles, rows, colour, opacity, width = 1) {
    if (tiles.ux * this.scale < FINE && rows.length > 2000) return;
    this.path(tiles, rows);
    this.line(colour, opacity, width);
  }

  line(colour, opacity, width) {
    const { context, ratio } = this;
    context.globalAlpha = opacity; context.lineWidth = width * ratio; context.strokeStyle = colour; context.stroke(); context.globalAlpha = 1;
  }

  picture(cells, picture, opacity, tiles) {
    const { context } = this;
    context.globalAlpha = opacity; context.imageSmoothingEnabled = false;
    context.drawImage(picture, this.x(cells.left), this.y(cells.top), cells.wide * tiles.ux * this.scale, cells.high * tiles.vy * this.scale);
    context.globalAlpha = 1;
  }

  outline(rings, colour, opacity, { width = 2, filled = false, open = false } = {}) {
    const { context } = this;
    context.beginPath();
    for (const ring of rings) {
      for (let i = 0; i < ring.length; i += 2) context[i ? "lineTo" : "moveTo"](this.x(ring[i]), this.y(ring[i + 1]));
      if (!open) context.closePath();
    }
    if (filled) { context.globalAlpha = opacity * 0.25; context.fillStyle = colour; context.fill("evenodd"); }
    this.line(colour, opacity, width);
  }

  circle(x, y, radius, colour, { width = 2, dashed = false, words = "" } = {}) {
    const { context, ratio } = this, [px, py, reach] = [this.x(x), this.y(y), radius * this.scale];
    if (px < -reach || py < -reach || px > this.wide + reach || py > this.high + reach) return;
    context.beginPath();
    context.arc(px, py, reach, 0, 2 * Math.PI);
    context.setLineDash(dashed ? [5 * ratio, 5 * ratio] : []);
    this.line(colour, 1, width);
    context.setLineDash([]);
    if (!words || reach < 12 * ratio) return;
    context.font = `600 ${Math.min(16, Math.max(10, reach / ratio / 3)) * ratio}px system-ui, sans-serif`;
    context.textAlign = "center"; context.textBaseline = "middle";
    context.lineWidth = 3 * ratio; context.strokeStyle = "rgb(255 255 255 / .9)"; context.strokeText(words, px, py);
    context.fillStyle = colour; context.fillText(words, px, py);
  }
}
