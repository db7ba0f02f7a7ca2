// Runs the action's program, and is to the runner what the program is: the same signals, the
// same exit code.
import { spawn } from "node:child_process";
import { constants } from "node:os";
import { join } from "node:path";
import { findBinary } from "./binary.mjs";

export const ROOT = join(import.meta.dirname, "..", "..");

/** command is a workflow command; data cannot end it. */
export function command(name, data) {
  const escaped = String(data).replaceAll("%", "%25").replaceAll("\r", "%0D").replaceAll("\n", "%0A");
  return `::${name}::${escaped}`;
}

/**
 * run starts a program with the stage as its argument and resolves to its exit code, or 128 and
 * the signal's number. SIGINT, SIGTERM and SIGHUP are passed on. The program's stdin
 * is a pipe that ends with this process, so that it learns of a kill, too.
 */
export function run(binary, stage, env) {
  return new Promise((resolve, reject) => {
    // Before it starts: a signal that comes meanwhile is handled once it has.
    let child;
    const handlers = ["SIGINT", "SIGTERM", "SIGHUP"].map((signal) => [signal, () => child.kill(signal)]);
    for (const [signal, pass] of handlers) process.on(signal, pass);
    child = spawn(binary, [stage], { env, stdio: ["pipe", "inherit", "inherit"] });
    child.stdin.on("error", () => {}); // it has ended
    const settle = (then, value) => {
      for (const [signal, pass] of handlers) process.off(signal, pass);
      then(value);
    };
    child.on("error", (err) => settle(reject, new Error(`${binary} cannot be run: ${err.message}`)));
    child.on("exit", (code, signal) => settle(resolve, code ?? 128 + constants.signals[signal]));
  });
}

/** stage runs "main" or "post" and sets this process's exit code. */
export async function stage(name, env = process.env) {
  const began = Date.now();
  try {
    const binary = await findBinary({ root: ROOT, env, say: (line) => console.log(line) });
    process.exitCode = await run(binary, name, { ...env, ZEROTRUST_ACTION_ROOT: ROOT, ZEROTRUST_ACTION_BEGAN: String(began) });
  } catch (err) {
    console.log(command("error", err.message));
    process.exitCode = 1;
  }
}
