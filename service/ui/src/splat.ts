// Points drawn by the processor, exactly as WebGL draws them: where WebGL has no graphics card beneath it, this is some ten times faster.

/** xyz: (M, 3); colours: (M, 3) bytes; visible: which of them, null for all. */
export interface Drawn {
  xyz: Float32Array;
  colours: Uint8Array;
  visible: Uint32Array | null;
}

export class Splatter {
  private readonly context: CanvasRenderingContext2D;
  private image: ImageData | null = null;
  private pixels = new Uint32Array(0);
  private depth = new Float32Array(0);

  /** Throws if the browser cannot draw on a canvas. */
  constructor(private readonly canvas: HTMLCanvasElement) {
    const context = canvas.getContext("2d", { alpha: false });
    if (!context) throw new Error("no canvas");
    this.context = context;
  }

  /** m: from the cloud into the cube that is seen, column by column; size: of a point, in pixels; background: 0xRRGGBB. */
  draw({ xyz, colours, visible }: Drawn, m: readonly number[], width: number, height: number, size: number, background: number): void {
    const image = this.fresh(width, height);
    const { pixels, depth } = this;
    pixels.fill(0xff000000 | ((background & 255) << 16) | (background & 0xff00) | (background >> 16));
    depth.fill(1);
    const [m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, m10, m11, m12, m13, m14, m15] = m as Matrix;
    const [halfWidth, halfHeight, before, after] = [width / 2, height / 2, -size / 2 - 0.5, size / 2 - 0.5];
    const count = visible ? visible.length : xyz.length / 3;
    for (let k = 0; k < count; k++) {
      const i = 3 * (visible ? visible[k]! : k);
      const x = xyz[i]!;
      const y = xyz[i + 1]!;
      const z = xyz[i + 2]!;
      const w = m3 * x + m7 * y + m11 * z + m15;
      const right = m0 * x + m4 * y + m8 * z + m12;
      const up = m1 * x + m5 * y + m9 * z + m13;
      const away = m2 * x + m6 * y + m10 * z + m14;
      if (!(w > 0) || right < -w || right > w || up < -w || up > w || away < -w || away > w) continue; // as WebGL leaves points out
      const far = away / w;
      const across = (1 + right / w) * halfWidth;
      const down = (1 - up / w) * halfHeight;
      const colour = 0xff000000 | (colours[i + 2]! << 16) | (colours[i + 1]! << 8) | colours[i]!;
      const left = Math.max(Math.ceil(across + before), 0);
      const end = Math.min(Math.ceil(across + after), width);
      const bottom = Math.min(Math.ceil(down + after), height);
      for (let row = Math.max(Math.ceil(down + before), 0); row < bottom; row++) {
        for (let at = row * width + left; at < row * width + end; at++) {
          if (far > depth[at]!) continue;
          depth[at] = far;
          pixels[at] = colour;
        }
      }
    }
    this.context.putImageData(image, 0, 0);
  }

  private fresh(width: number, height: number): ImageData {
    if (this.image?.width === width && this.image.height === height) return this.image;
    [this.canvas.width, this.canvas.height] = [width, height];
    this.image = new ImageData(width, height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.depth = new Float32Array(width * height);
    return this.image;
  }
}

type Four = [number, number, number, number];
type Matrix = [...Four, ...Four, ...Four, ...Four];
