// The action's main step. What is to be known in the post step goes by way of a folder.
import { randomUUID } from "node:crypto";
import { appendFileSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { command, stage } from "./start.mjs";

let folder;
try {
  folder = mkdtempSync(join(process.env.RUNNER_TEMP || tmpdir(), "zerotrust-"));
  const end = `end-${randomUUID()}`;
  appendFileSync(process.env.GITHUB_STATE ?? "", `folder<<${end}\n${folder}\n${end}\n`);
} catch (err) {
  console.log(command("warning", `the post step will not know of this one, and clean nothing up: ${err.message}`));
}
await stage("main", { ...process.env, ZEROTRUST_ACTION_STATE: folder ?? "" });
