// Builds the script of the page into built/; the same sources give the same bytes. What needs no building is in static/.
import { build } from "esbuild";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";

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
  banner: { js: "/* fip-server, Apache-2.0; with three.js and marked, MIT: see three.LICENSE.txt and marked.LICENSE.txt beside this file */" },
});
for (const name of ["three", "marked"]) writeFileSync(`${out}${name}.LICENSE.txt`, readFileSync(`node_modules/${name}/LICENSE`));
