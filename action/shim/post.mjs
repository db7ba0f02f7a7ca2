// The action's post step: what the main step left to clean up. It runs however that ended.
import { stage } from "./start.mjs";

// Without a folder the main step never started, and left nothing.
if (process.env.STATE_folder) {
  await stage("post", { ...process.env, ZEROTRUST_ACTION_STATE: process.env.STATE_folder });
}
