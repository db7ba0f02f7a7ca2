// Finds the action's program: the path given for tests, the tool cache, the release asset
// whose checksum is committed here, or go build.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { sourceHash } from "./source.mjs";

export const RELEASES = "https://github.com/org/spire-vault-99-action/releases/download";
/** By node's name, the Go names of the architectures that there are releases for. */
export const ARCHITECTURES = { x64: "amd64", arm64: "arm64" };

/**
 * parseChecksums reads checksums.txt: comment lines, "version V", "source HASH", and for
 * each asset "SHA256  NAME". A line of another form is an error: half a list must not
 * pass for a whole one.
 */
export function parseChecksums(text) {
  const sums = { version: "", source: "", assets: {} };
  text.split("\n").forEach((line, i) => {
    if (line === "" || line.startsWith("#")) return;
    let m;
    if ((m = /^version (v\d+\.\d+\.\d+)$/.exec(line))) sums.version = m[1];
    else if ((m = /^source ([0-9a-f]{64})$/.exec(line))) sums.source = m[1];
    else if ((m = /^([0-9a-f]{64}) {2}([a-z0-9._-]+)$/.exec(line))) sums.assets[m[2]] = m[1];
    else throw new Error(`checksums.txt, line ${i + 1}: want "version vX.Y.Z", "source HASH" or "HASH  NAME", got ${JSON.stringify(line)}`);
  });
  return sums;
}

/** platform is the Go name of this machine's architecture. Anything but Linux on amd64 or arm64 is an error. */
export function platform(os = process.platform, arch = process.arch) {
  if (os !== "linux") {
    throw new Error(`this action runs on Linux alone, and this runner is ${os}: use runs-on: ubuntu-latest`);
  }
  if (!ARCHITECTURES[arch]) {
    throw new Error(`this action runs on ${Object.keys(ARCHITECTURES).join(" and ")} alone, and this runner is ${arch}`);
  }
  return ARCHITECTURES[arch];
}

/** asset is the name of a release's program. */
export const asset = (arch) => `spire-vault-99-action-linux-${arch}`;

const sha256 = (data) => createHash("sha256").update(data).digest("hex");

/** put makes a file appear whole and executable, or not at all. */
function put(path, fill) {
  mkdirSync(dirname(path), { recursive: true });
  const scratch = mkdtempSync(join(dirname(path), ".new-"));
  try {
    const file = join(scratch, "action");
    fill(file);
    chmodSync(file, 0o755);
    renameSync(file, path);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

async function download(url, want) {
  const answer = await fetch(url, { signal: AbortSignal.timeout(5 * 60 * 1000) });
  if (!answer.ok) throw new Error(`GET ${url}: ${answer.status} ${answer.statusText}`);
  const data = Buffer.from(await answer.arrayBuffer());
  const got = sha256(data);
  if (got !== want) {
    const refused = new Error(`${url} has the SHA-256 ${got}, and action/checksums.txt says ${want}: it is not run`);
    refused.refused = true;
    throw refused;
  }
  return data;
}

/** build runs go build for the checkout at root. The same source and toolchain give the same program. */
export function build(root, out, env) {
  const done = spawnSync("go", ["build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out, "./action"], {
    cwd: root,
    env: { ...env, CGO_ENABLED: "0", GOWORK: "off", GOFLAGS: "" },
    stdio: ["ignore", "inherit", "inherit"],
  });
  if (done.error) throw new Error(`go build cannot be run (${done.error.message}): install Go, for example with actions/setup-go`);
  if (done.status !== 0) throw new Error(`go build of the action ended with ${done.signal ?? `code ${done.status}`}: see above`);
}

/**
 * findBinary returns the path of the program for the checkout at root. say gets one line for
 * what takes long. A download that is not what its checksum says is an error; one that
 * cannot be had leads to go build.
 */
export async function findBinary({ root, env = process.env, say = () => {}, os, arch: cpu }) {
  const arch = platform(os, cpu);
  if (env.ZEROTRUST_ACTION_BINARY) {
    if (!existsSync(env.ZEROTRUST_ACTION_BINARY)) {
      throw new Error(`ZEROTRUST_ACTION_BINARY is ${env.ZEROTRUST_ACTION_BINARY}, and there is no such file`);
    }
    return env.ZEROTRUST_ACTION_BINARY;
  }
  const source = sourceHash(root);
  const sums = parseChecksums(readFileSync(join(root, "action", "checksums.txt"), "utf8"));
  const name = asset(arch);
  const want = sums.source === source ? sums.assets[name] : undefined;

  const cache = env.RUNNER_TOOL_CACHE || join(env.RUNNER_TEMP || tmpdir(), "tools");
  const cached = join(cache, "spire-vault-99-action", source.slice(0, 16), arch, "action");
  if (existsSync(cached)) {
    if (!want || sha256(readFileSync(cached)) === want) return cached;
    say(`${cached} is not what its checksum says: it is replaced`);
  }
  if (want) {
    const url = `${env.ZEROTRUST_ACTION_RELEASES || RELEASES}/${sums.version}/${name}`;
    try {
      say(`downloading ${url}`);
      const data = await download(url, want);
      put(cached, (file) => writeFileSync(file, data));
      return cached;
    } catch (err) {
      if (err.refused) throw err;
      say(`the release could not be had (${err.cause?.message ?? err.message})`);
    }
  }
  say("building the action's program with go build: some minutes the first time");
  put(cached, (file) => build(root, file, env));
  return cached;
}
