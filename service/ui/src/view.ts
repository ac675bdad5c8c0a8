// The cloud in space: drawn when something changed, turned by mouse, touch and keys, and picked from.

import {
  BufferAttribute,
  BufferGeometry,
  Color,
  ColorManagement,
  PerspectiveCamera,
  Points,
  Scene,
  ShaderMaterial,
  Spherical,
  Vector3,
  WebGLRenderer,
} from "three";
import { OrbitControls } from "three/examples/jsm/controls/OrbitControls.js";
import type { Axis } from "./colours";
import { Splatter } from "./splat";

// Colours go to the screen as they are: a palette is no light that would have to be converted.
const VERTEX = `
attribute vec3 color;
uniform float size;
varying vec3 shade;
void main() {
  shade = color;
  gl_Position = projectionMatrix * modelViewMatrix * vec4(position, 1.0);
  gl_PointSize = size;
}`;
const FRAGMENT = `
varying vec3 shade;
void main() {
  gl_FragColor = vec4(shade, 1.0);
}`;
ColorManagement.enabled = false;
const UPS: Record<Axis, [number, number, number]> = { x: [1, 0, 0], y: [0, 1, 0], z: [0, 0, 1] };
const STEP = Math.PI / 36;
const REACH_PX = 10;
// A cloud whose frames take longer than that, drawn by WebGL, is turned by the processor; once it has rested for a while, WebGL draws it.
const SLOW_MS = 60;
const REST_MS = 400;

export interface Place {
  position: number[];
  target: number[];
}

export class View {
  private readonly renderer: WebGLRenderer;
  private readonly scene = new Scene();
  private readonly camera = new PerspectiveCamera(50, 1, 0.1, 1000);
  private readonly material = new ShaderMaterial({ vertexShader: VERTEX, fragmentShader: FRAGMENT, uniforms: { size: { value: 2 } } });
  private readonly points = new Points(new BufferGeometry(), this.material);
  private controls: OrbitControls;
  private visible: Uint32Array | null = null;
  private background = 0;
  private readonly splatter: Splatter;
  private slow = false; // for WebGL here
  private first = true; // the next frame takes longer than others: the points go to the graphics card with it
  private rendering = false; // a frame is not yet done
  private behind = false; // and something changed since it began
  private held = false;
  private turns = false;
  private resting = 0;
  private radius = 1;
  private up: Axis = "z";
  private asked = false;
  /** Called after the camera has come to rest. */
  moved: () => void = () => {};
  /** Called when the graphics card is taken away, and when it is back. */
  lost: (is: boolean) => void = () => {};

  /** Throws if the browser has no WebGL. */
  constructor(
    private readonly canvas: HTMLCanvasElement,
    private readonly quick: HTMLCanvasElement,
  ) {
    this.splatter = new Splatter(quick);
    this.renderer = new WebGLRenderer({ canvas, antialias: false, powerPreference: "high-performance" });
    this.scene.add(this.points);
    this.points.frustumCulled = false;
    this.controls = this.control();
    canvas.addEventListener("webglcontextlost", () => this.lost(true));
    canvas.addEventListener("webglcontextrestored", () => {
      this.rendering = false;
      this.first = true;
      this.renderer.setClearColor(new Color(this.background), 1);
      this.draw();
      this.lost(false);
    });
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement ?? canvas);
    this.resize();
  }

  /** Show other points, from where all of them are seen. */
  show(xyz: Float32Array, up: Axis): void {
    this.points.geometry.dispose();
    this.points.geometry = new BufferGeometry();
    this.points.geometry.setAttribute("position", new BufferAttribute(xyz, 3));
    this.points.geometry.setAttribute("color", new BufferAttribute(new Uint8Array(xyz.length), 3, true));
    this.visible = null;
    this.slow = false;
    this.first = true;
    this.radius = reachOf(xyz);
    this.turnUp(up);
  }

  clear(): void {
    this.show(new Float32Array(0), this.up);
  }

  colour(colours: Uint8Array): void {
    const attribute = this.points.geometry.getAttribute("color") as BufferAttribute;
    (attribute.array as Uint8Array).set(colours);
    attribute.needsUpdate = true;
    this.first = true;
    this.draw();
  }

  /** Show only these points, null for all. */
  select(visible: Uint32Array | null): void {
    this.visible = visible;
    this.points.geometry.setIndex(visible ? new BufferAttribute(visible, 1) : null);
    this.first = true;
    this.draw();
  }

  setSize(pixels: number): void {
    this.material.uniforms["size"]!.value = pixels * this.renderer.getPixelRatio();
    this.draw();
  }

  setBackground(colour: string): void {
    const set = new Color(colour);
    this.background = set.getHex();
    this.renderer.setClearColor(set, 1);
    this.draw();
  }

  turnUp(up: Axis): void {
    this.up = up;
    this.controls.dispose();
    this.held = false; // whoever held them holds others now
    this.camera.up.set(...UPS[up]);
    this.controls = this.control();
    this.fit();
  }

  fit(): void {
    const away = new Vector3(1, -1, 0.8).normalize();
    if (this.up === "y") away.set(1, 0.8, 1).normalize();
    if (this.up === "x") away.set(0.8, 1, 1).normalize();
    const angle = (this.camera.fov * Math.PI) / 180 / 2;
    const distance = this.radius / Math.sin(Math.min(angle, Math.atan(Math.tan(angle) * this.camera.aspect)));
    this.controls.target.set(0, 0, 0);
    this.camera.position.copy(away.multiplyScalar(distance));
    this.camera.near = distance / 1000;
    this.camera.far = distance * 20;
    this.camera.updateProjectionMatrix();
    this.settle();
  }

  get place(): Place {
    return { position: this.camera.position.toArray(), target: this.controls.target.toArray() };
  }

  set place(place: Place) {
    this.camera.position.fromArray(place.position);
    this.controls.target.fromArray(place.target);
    this.settle();
  }

  /** Turn around what is looked at, by steps: to the right, upwards. */
  orbit(right: number, upwards: number): void {
    this.relative((around) => {
      around.theta += right * STEP;
      around.phi = Math.min(Math.max(around.phi - upwards * STEP, 0.01), Math.PI - 0.01);
    });
  }

  zoom(steps: number): void {
    this.relative((around) => {
      around.radius *= 0.85 ** steps;
    });
  }

  /** Move along the picture, by steps: to the right, upwards. */
  pan(right: number, upwards: number): void {
    const step = 0.05 * this.camera.position.distanceTo(this.controls.target);
    const move = new Vector3(right * step, upwards * step, 0).applyQuaternion(this.camera.quaternion);
    this.camera.position.add(move);
    this.controls.target.add(move);
    this.settle();
  }

  /** The nearest visible point around a place on the canvas (pixels of the page), null if there is none within reach. */
  pick(x: number, y: number): number | null {
    const xyz = this.points.geometry.getAttribute("position")?.array as Float32Array | undefined;
    if (!xyz) return null;
    const { width, height } = this.canvas.getBoundingClientRect();
    this.camera.updateMatrixWorld();
    const m = this.camera.projectionMatrix.clone().multiply(this.camera.matrixWorldInverse).elements;
    let found: number | null = null;
    let best = Infinity;
    const count = this.visible ? this.visible.length : xyz.length / 3;
    for (let k = 0; k < count; k++) {
      const i = this.visible ? this.visible[k]! : k;
      const [a, b, c] = [xyz[3 * i]!, xyz[3 * i + 1]!, xyz[3 * i + 2]!];
      const w = m[3]! * a + m[7]! * b + m[11]! * c + m[15]!;
      if (w <= 0) continue;
      const dx = ((m[0]! * a + m[4]! * b + m[8]! * c + m[12]!) / w + 1) * 0.5 * width - x;
      const dy = (1 - (m[1]! * a + m[5]! * b + m[9]! * c + m[13]!) / w) * 0.5 * height - y;
      const off = dx * dx + dy * dy;
      if (off > REACH_PX * REACH_PX) continue;
      const rank = w * (1 + off / 20); // in front before exactly there
      if (rank < best) [best, found] = [rank, i];
    }
    return found;
  }

  /** Where on the canvas a point is (pixels of the page), null if it is not on it. */
  placeOf(i: number): [number, number] | null {
    const xyz = this.points.geometry.getAttribute("position")?.array as Float32Array | undefined;
    if (!xyz) return null;
    this.camera.updateMatrixWorld();
    const at = new Vector3().fromArray(xyz, 3 * i).project(this.camera);
    if (Math.max(Math.abs(at.x), Math.abs(at.y), Math.abs(at.z)) > 1) return null;
    return [((at.x + 1) / 2) * this.canvas.clientWidth, ((1 - at.y) / 2) * this.canvas.clientHeight];
  }

  /** The picture as it is, as PNG. */
  picture(): Promise<Blob> {
    this.renderer.render(this.scene, this.camera);
    return new Promise((resolve, reject) =>
      this.canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no picture"))), "image/png"),
    );
  }

  private relative(change: (around: Spherical) => void): void {
    const turn = OrbitTurn(this.up);
    const offset = turn.there(this.camera.position.clone().sub(this.controls.target));
    const around = new Spherical().setFromVector3(offset);
    change(around);
    this.camera.position.copy(turn.back(offset.setFromSpherical(around))).add(this.controls.target);
    this.settle();
  }

  private settle(): void {
    this.controls.update();
    this.turn();
    this.moved();
  }

  private control(): OrbitControls {
    const controls = new OrbitControls(this.camera, this.canvas);
    controls.enableDamping = false;
    controls.addEventListener("change", () => this.turn());
    controls.addEventListener("start", () => (this.held = true));
    controls.addEventListener("end", () => {
      this.held = false;
      this.rest();
      this.moved();
    });
    return controls;
  }

  private resize(): void {
    const box = this.canvas.parentElement ?? this.canvas;
    const [width, height] = [Math.max(box.clientWidth, 1), Math.max(box.clientHeight, 1)];
    this.renderer.setPixelRatio(Math.min(window.devicePixelRatio, 2));
    this.renderer.setSize(width, height, false);
    this.camera.aspect = width / height;
    this.camera.updateProjectionMatrix();
    this.draw();
  }

  private draw(): void {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      if (this.turns && this.slow) this.splat();
      else if (this.rendering) this.behind = true;
      else this.render();
    });
  }

  /** Draw while the camera moves. */
  private turn(): void {
    this.turns = true;
    this.draw();
    this.rest();
  }

  private rest(): void {
    clearTimeout(this.resting);
    if (this.held) return;
    this.resting = window.setTimeout(() => {
      this.turns = false;
      if (!this.quick.hidden) this.draw();
    }, REST_MS);
  }

  private render(): void {
    this.renderer.render(this.scene, this.camera);
    const gl = this.renderer.getContext() as WebGL2RenderingContext;
    const done = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
    if (!done) return;
    const [began, first] = [performance.now(), this.first];
    this.rendering = true;
    this.first = this.behind = false;
    const wait = () => {
      if (gl.clientWaitSync(done, 0, 0) === gl.TIMEOUT_EXPIRED) return void requestAnimationFrame(wait);
      gl.deleteSync(done);
      this.rendering = false;
      if (!first) this.slow = performance.now() - began > SLOW_MS;
      if (this.behind) this.draw();
      else if (!this.turns) this.quick.hidden = true;
    };
    requestAnimationFrame(wait);
  }

  private splat(): void {
    this.camera.updateMatrixWorld();
    const matrix = this.camera.projectionMatrix.clone().multiply(this.camera.matrixWorldInverse).elements;
    const { width, height } = this.canvas;
    const size = this.material.uniforms["size"]!.value as number;
    const { position, color } = this.points.geometry.attributes as { position: BufferAttribute; color: BufferAttribute };
    const drawn = { xyz: position.array as Float32Array, colours: color.array as Uint8Array, visible: this.visible };
    this.splatter.draw(drawn, matrix, width, height, size, this.background);
    this.quick.hidden = false;
  }
}

/** Into a frame whose y is up, in which angles are counted, and back. */
function OrbitTurn(up: Axis): { there(v: Vector3): Vector3; back(v: Vector3): Vector3 } {
  if (up === "z") return { there: (v) => v.set(v.x, v.z, -v.y), back: (v) => v.set(v.x, -v.z, v.y) };
  if (up === "x") return { there: (v) => v.set(-v.y, v.x, v.z), back: (v) => v.set(v.y, -v.x, v.z) };
  return { there: (v) => v, back: (v) => v };
}

/** How far from the middle all but a few points lie. */
function reachOf(xyz: Float32Array): number {
  const every = Math.max(1, Math.floor(xyz.length / 3 / 20_000));
  const far: number[] = [];
  for (let i = 0; 3 * i < xyz.length; i += every) far.push(Math.hypot(xyz[3 * i]!, xyz[3 * i + 1]!, xyz[3 * i + 2]!));
  far.sort((a, b) => a - b);
  return Math.max(far[Math.floor(0.98 * far.length)] ?? 1, 1e-6);
}
