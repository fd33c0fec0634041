// One file of each page's modules, and one of its styles, so that a page's first load takes few requests. The
// set-up runs it. A folder with a main.js or a main.css is a page's, or what all of them share; built/NAME.js.json lists
// what a bundle was made from, by hash: where a source has changed since, app/web/assets.py has the sources served.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, readdirSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const HERE = dirname(fileURLToPath(import.meta.url));
const ENTRIES = readdirSync(HERE).flatMap((name) =>
  ["js", "css"].map((kind) => ({ kind, name, entry: `${name}/main.${kind}` })),
);

/** Written beside and moved: whoever reads finds the whole file, old or new. */
function write(path, content) {
  writeFileSync(`${path}.${process.pid}`, content);
  renameSync(`${path}.${process.pid}`, path);
}

mkdirSync(join(HERE, "built"), { recursive: true });
for (const { kind, name, entry } of ENTRIES.filter((each) => existsSync(join(HERE, each.entry)))) {
  const { metafile, outputFiles } = await build({
    absWorkingDir: HERE,
    entryPoints: [entry],
    bundle: true,
    charset: "utf8",
    format: "esm",
    metafile: true,
    minify: true,
    target: "es2022",
    write: false,
    outfile: `built/${name}.${kind}`,
  });
  const sources = Object.keys(metafile.inputs).map((source) => {
    const hash = createHash("sha256").update(readFileSync(join(HERE, source)));
    return [source, hash.digest("hex")];
  });
  const bundle = join(HERE, "built", `${name}.${kind}`);
  write(bundle, outputFiles[0].contents);
  write(`${bundle}.json`, `${JSON.stringify(Object.fromEntries(sources), null, 2)}\n`);
}
