// One file of each page's modules, so that a page's first load takes few requests: `node static/bundle.mjs`.
// The set-up runs it. static/built/NAME.json lists what a bundle was made from, by hash: where a module has changed
// since, app/web/static.py serves the modules themselves.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const HERE = dirname(fileURLToPath(import.meta.url));
const NAMES = readdirSync(HERE).filter((name) => existsSync(join(HERE, name, "main.js")));

/** Written beside and moved: whoever reads finds the whole file, old or new. */
function write(path, content) {
  writeFileSync(`${path}.${process.pid}`, content);
  renameSync(`${path}.${process.pid}`, path);
}

mkdirSync(join(HERE, "built"), { recursive: true });
for (const name of NAMES) {
  const { metafile, outputFiles } = await build({
    absWorkingDir: HERE,
    entryPoints: [`${name}/main.js`],
    bundle: true,
    charset: "utf8",
    format: "esm",
    metafile: true,
    minify: true,
    target: "es2022",
    write: false,
    outfile: `built/${name}.js`,
  });
  const sources = Object.keys(metafile.inputs).map((source) => {
    const hash = createHash("sha256").update(readFileSync(join(HERE, source)));
    return [source, hash.digest("hex")];
  });
  write(join(HERE, "built", `${name}.js`), outputFiles[0].contents);
  write(join(HERE, "built", `${name}.json`), `${JSON.stringify(Object.fromEntries(sources), null, 2)}\n`);
}
