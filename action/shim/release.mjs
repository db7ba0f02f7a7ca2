// Builds the programs of a release and writes action/checksums.txt for them:
//
//	node action/shim/release.mjs v1.2.3 dist
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { ARCHITECTURES, asset, build, parseChecksums } from "./binary.mjs";
import { sourceHash } from "./source.mjs";

/** release builds for each architecture into dist and returns the text of checksums.txt, which it writes. */
export function release({ root, version, dist, env = process.env }) {
  mkdirSync(dist, { recursive: true });
  const lines = [
    "# The program of the last release, by SHA-256, and the source that it was built from",
    "# (node action/shim/source.mjs). Written by action/shim/release.mjs. Where the checkout",
    "# has another source, the program is built from it.",
    `version ${version}`,
    `source ${sourceHash(root)}`,
  ];
  for (const arch of Object.values(ARCHITECTURES)) {
    const file = join(dist, asset(arch));
    build(root, file, { ...env, GOOS: "linux", GOARCH: arch });
    lines.push(`${createHash("sha256").update(readFileSync(file)).digest("hex")}  ${asset(arch)}`);
  }
  const text = lines.join("\n") + "\n";
  parseChecksums(text); // what cannot be read is not written
  writeFileSync(join(root, "action", "checksums.txt"), text);
  return text;
}

if (process.argv[1] === import.meta.filename) {
  const [version, dist] = process.argv.slice(2);
  if (!/^v\d+\.\d+\.\d+$/.test(version ?? "") || !dist) {
    console.error("usage: release.mjs vX.Y.Z FOLDER");
    process.exit(2);
  }
  process.stdout.write(release({ root: join(import.meta.dirname, "..", ".."), version, dist: resolve(dist) }));
}
