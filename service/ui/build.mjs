// Builds the page into ../ui/built; the same sources give the same bytes.
import { build } from "esbuild";
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";

const out = new URL("built/", import.meta.url).pathname;
mkdirSync(out, { recursive: true });
await build({
  entryPoints: ["src/main.ts"],
  outfile: `${out}page.js`,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  banner: { js: "/* fip-server, Apache-2.0; with three.js, MIT: see three.LICENSE.txt beside this file */" },
});
for (const name of ["index.html", "page.css", "icon.svg"]) cpSync(`src/${name}`, `${out}${name}`);
writeFileSync(`${out}three.LICENSE.txt`, readFileSync("node_modules/three/LICENSE"));
