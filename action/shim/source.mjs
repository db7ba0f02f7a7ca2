// What the action's program is made of, told as one hash. The release's checksums name
// the hash that they were made for, so a changed checkout never runs an old program.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";

// The files and folders that go into the program, below the action's root. A Go test
// compares them with what the go command says.
export const PARTS = ["go.mod", "go.sum", "action", "cilium", "images", "internal", "kindx", "spire", "zerotrust"];

// Files that change nothing in it: tests, what tests read, and the checksums themselves.
function counts(path) {
  return !/_test\.go$|(^|\/)testdata\/|^action\/(shim\/|checksums\.txt$)|\.md$/.test(path);
}

/** filesOf lists the files that count, by path relative to root, sorted by bytes. */
export function filesOf(root) {
  const found = [];
  const walk = (path) => {
    if (!statSync(join(root, path)).isDirectory()) {
      if (counts(path)) found.push(path);
      return;
    }
    if (!counts(path + "/")) return;
    for (const name of readdirSync(join(root, path))) walk(`${path}/${name}`);
  };
  for (const part of PARTS) walk(part);
  return found.sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
}

/** sourceHash is a SHA-256, in hex, over the names and the contents of those files. */
export function sourceHash(root) {
  const all = createHash("sha256");
  for (const path of filesOf(root)) {
    all.update(`${createHash("sha256").update(readFileSync(join(root, path))).digest("hex")}  ${path}\n`);
  }
  return all.digest("hex");
}

if (process.argv[1] === import.meta.filename) {
  console.log(sourceHash(join(import.meta.dirname, "..", "..")));
}
