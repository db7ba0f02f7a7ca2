import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test as plain } from "node:test";
import { findBinary, parseChecksums, platform } from "../binary.mjs";
import { release } from "../release.mjs";
import { filesOf, PARTS, sourceHash } from "../source.mjs";
import { command, ROOT } from "../start.mjs";

// A test that hangs is one that fails.
const test = (name, run) => plain(name, { timeout: 120_000 }, run);
const scratch = mkdtempSync(join(tmpdir(), "shim-"));
after(() => rmSync(scratch, { recursive: true, force: true }));
const folder = () => mkdtempSync(join(scratch, "f-"));
const sha = (data) => createHash("sha256").update(data).digest("hex");

/** checkout makes a small action to find the program of. */
function checkout(sums = "") {
  const root = folder();
  for (const part of PARTS) {
    if (part.startsWith("go.")) writeFileSync(join(root, part), part === "go.mod" ? "module tiny\n\ngo 1.26.0\n" : "");
    else mkdirSync(join(root, part));
  }
  writeFileSync(join(root, "action", "main.go"), 'package main\n\nfunc main() { println("tiny") }\n');
  writeFileSync(join(root, "action", "checksums.txt"), sums);
  return root;
}

/** release serves a program, and is the checksums for it at the checkout. */
async function served(t, root, program, claimed = program) {
  const asked = [];
  const server = createServer((request, answer) => {
    asked.push(request.url);
    if (program === null) answer.writeHead(404).end();
    else answer.end(program);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  writeFileSync(join(root, "action", "checksums.txt"),
    `# a comment\nversion v1.2.3\nsource ${sourceHash(root)}\n${sha(claimed ?? "x")}  spire-vault-99-action-linux-${platform()}\n`);
  return { asked, env: { ...process.env, ZEROTRUST_ACTION_RELEASES: `http://127.0.0.1:${server.address().port}`, RUNNER_TOOL_CACHE: folder() } };
}

test("Linux alone, said at once", async () => {
  for (const os of ["win32", "darwin"]) {
    await assert.rejects(findBinary({ root: "/none", os, env: { ZEROTRUST_ACTION_BINARY: "/bin/true" } }), /runs on Linux alone.*ubuntu-latest/);
  }
  assert.throws(() => platform("linux", "ia32"), /x64 and arm64/);
  assert.equal(platform("linux", "arm64"), "arm64");
});

test("a path given for tests comes first, and has to be there", async () => {
  assert.equal(await findBinary({ root: "/none", env: { ZEROTRUST_ACTION_BINARY: "/bin/true" } }), "/bin/true");
  await assert.rejects(findBinary({ root: "/none", env: { ZEROTRUST_ACTION_BINARY: "/none/x" } }), /no such file/);
});

test("the release is downloaded once, then comes from the tool cache", async (t) => {
  const root = checkout();
  const { asked, env } = await served(t, root, "program");
  const first = await findBinary({ root, env });
  assert.equal(readFileSync(first, "utf8"), "program");
  assert.equal(await findBinary({ root, env }), first);
  assert.deepEqual(asked, [`/v1.2.3/spire-vault-99-action-linux-${platform()}`]);
});

test("a cached program that is not what its checksum says is replaced", async (t) => {
  const root = checkout();
  const { asked, env } = await served(t, root, "program");
  const path = await findBinary({ root, env });
  writeFileSync(path, "changed");
  assert.equal(readFileSync(await findBinary({ root, env }), "utf8"), "program");
  assert.equal(asked.length, 2);
});

test("a download that is not what its checksum says is refused, and nothing is built instead", async (t) => {
  const root = checkout();
  const { env } = await served(t, root, "evil", "program");
  await assert.rejects(findBinary({ root, env }), /it is not run/);
});

test("a release that cannot be had leads to go build, kept in the tool cache", async (t) => {
  const root = checkout();
  const { env } = await served(t, root, null);
  // What is built here is none that the checksum knows.
  const said = [];
  const path = await findBinary({ root, env, say: (line) => said.push(line) });
  assert.match(said.join("\n"), /404[^]*go build/);
  assert.ok(existsSync(path));
});

test("a changed source is never run by an old program", async (t) => {
  const root = checkout();
  const { asked, env } = await served(t, root, "program");
  writeFileSync(join(root, "spire", "new.go"), "package spire\n");
  const path = await findBinary({ root, env });
  assert.notEqual(readFileSync(path, "latin1"), "program");
  assert.deepEqual(asked, []);
  // Built once.
  const before = readFileSync(path);
  assert.equal(await findBinary({ root, env: { ...env, PATH: "/none" } }), path);
  assert.deepEqual(readFileSync(path), before);
});

test("without Go it says what to install", async () => {
  const root = checkout();
  await assert.rejects(findBinary({ root, env: { PATH: "/none", RUNNER_TOOL_CACHE: folder() } }), /install Go/);
});

test("checksums are read strictly", () => {
  assert.deepEqual(parseChecksums("# x\n\n"), { version: "", source: "", assets: {} });
  for (const bad of ["version latest", `${"a".repeat(64)} name`, `${"a".repeat(63)}  name`, `${"a".repeat(64)}  ../name`, "source x", " "]) {
    assert.throws(() => parseChecksums(bad), /checksums.txt, line 1/, bad);
  }
  parseChecksums(readFileSync(join(ROOT, "action", "checksums.txt"), "utf8"));
});

test("a release is the same each time, and its checksums are for the checkout", () => {
  const root = checkout();
  const first = release({ root, version: "v1.2.3", dist: folder() });
  assert.equal(release({ root, version: "v1.2.3", dist: folder() }), first);
  const sums = parseChecksums(readFileSync(join(root, "action", "checksums.txt"), "utf8"));
  assert.equal(sums.source, sourceHash(root));
  assert.deepEqual(Object.keys(sums.assets), ["spire-vault-99-action-linux-amd64", "spire-vault-99-action-linux-arm64"]);
  assert.throws(() => release({ root, version: "latest", dist: folder() }), /version vX/);
});

test("the source hash is of what goes into the program", () => {
  const root = checkout();
  const before = sourceHash(root);
  for (const [file, same] of [["spire/a_test.go", true], ["action/checksums.txt", true], ["action/README.md", true], ["README.md", true],
    ["action/shim/x.mjs", true], ["images/testdata/x", true], ["spire/a.yaml", false], ["go.sum", false]]) {
    const copy = folder();
    cpSync(root, copy, { recursive: true });
    mkdirSync(join(copy, file, ".."), { recursive: true });
    writeFileSync(join(copy, file), "new");
    assert.equal(sourceHash(copy) === before, same, file);
  }
  assert.ok(filesOf(ROOT).includes("action/main.go"));
});

test("a workflow command cannot be ended by its data", () => {
  assert.equal(command("error", "a%0A\r\n::warning::b"), "::error::a%250A%0D%0A::warning::b");
});

/** start runs the shim with a program that is a shell script. */
function start(stage, script, env = {}) {
  const program = join(folder(), "program");
  writeFileSync(program, `#!/bin/sh\n${script}\n`);
  chmodSync(program, 0o755);
  const state = join(folder(), "state");
  writeFileSync(state, "");
  const child = spawn(process.execPath, [join(ROOT, "action", "shim", `${stage}.mjs`)], {
    env: { PATH: process.env.PATH, ZEROTRUST_ACTION_BINARY: program, GITHUB_STATE: state, RUNNER_TEMP: folder(), ...env },
  });
  let out = "";
  child.stdout.on("data", (data) => (out += data));
  child.stderr.on("data", (data) => (out += data));
  const ended = new Promise((resolve) => child.on("close", (code, signal) => resolve({ code, signal, out, state: readFileSync(state, "utf8") })));
  const says = async (text) => {
    while (!out.includes(text)) await new Promise((resolve) => setTimeout(resolve, 10));
  };
  return { child, ended, says };
}

test("the exit code is the program's", async () => {
  for (const code of [0, 1, 7, 130]) {
    assert.equal((await start("main", `exit ${code}`).ended).code, code);
  }
  assert.equal((await start("main", "kill -KILL $$").ended).code, 137);
});

test("signals are passed on, and waited for", async () => {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    const s = start("main", `trap 'kill $!; echo cleaned; exit 130' ${signal.slice(3)}; sleep 60 & echo ready; wait $!`);
    await s.says("ready");
    s.child.kill(signal);
    const { code, out } = await s.ended;
    assert.equal(code, 130, signal);
    assert.match(out, /cleaned/, signal);
  }
});

test("a program whose shim is killed sees its stdin end", async () => {
  const s = start("main", "cat >/dev/null; echo alone");
  await new Promise((resolve) => setTimeout(resolve, 500));
  s.child.kill("SIGKILL");
  const { out, signal } = await s.ended;
  assert.equal(signal, "SIGKILL");
  assert.match(out, /alone/);
});

test("main leaves post a folder, and post runs in it", async () => {
  const main = await start("main", 'echo "$1 in $ZEROTRUST_ACTION_STATE of $ZEROTRUST_ACTION_ROOT"').ended;
  const [, path] = /^folder<<(\S+)\n(\S+)\n\1\n$/.exec(main.state).slice(1);
  assert.ok(existsSync(path));
  assert.match(main.out, new RegExp(`main in ${path} of ${ROOT}`));
  const post = await start("post", 'echo "$1 in $ZEROTRUST_ACTION_STATE"', { STATE_folder: path }).ended;
  assert.match(post.out, new RegExp(`post in ${path}`));
  assert.equal((await start("post", "echo never").ended).out, "");
});

test("a main step whose state cannot be kept says so and goes on", async () => {
  for (const GITHUB_STATE of ["/none/state", ""]) {
    const { code, out } = await start("main", "echo on", { GITHUB_STATE }).ended;
    assert.equal(code, 0);
    assert.match(out, /::warning::the post step will not know[^]*on/);
  }
});

test("what goes wrong in the shim is an error of the step", async () => {
  const { code, out } = await start("main", "", { ZEROTRUST_ACTION_BINARY: "/none/x\n::set-output name=a::b" }).ended;
  assert.equal(code, 1);
  assert.match(out, /^::error::.*no such file/m);
  assert.doesNotMatch(out, /^::set-output/m);
});
