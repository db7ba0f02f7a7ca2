// The evidence board: tries each edge, counts lives down, rotates the database user.
// Without it the page is the table of the intent.
"use strict";
(() => {
  const $ = (selector, within = document) => within.querySelector(selector);
  const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

  // The server's clock counts: the browser's may be wrong.
  let ahead = Date.now() - Date.parse($(".boards").dataset.now);
  const now = () => Date.now() - ahead;

  class Refused extends Error {}

  async function ask(path, body) {
    const options = { headers: { Accept: "application/json" }, cache: "no-store" };
    if (body !== undefined) {
      options.method = "POST";
      options.headers["Content-Type"] = "application/json";
      options.body = JSON.stringify(body);
    }
    const response = await fetch(path, options);
    if (response.status === 401) {
      location.assign("/login?next=" + encodeURIComponent("/security"));
      return new Promise(() => {}); // nothing more is done on this page
    }
    const date = Date.parse(response.headers.get("Date"));
    if (!Number.isNaN(date)) ahead = Date.now() - date;
    const answer = await response.json().catch(() => ({}));
    if (!response.ok && !answer.dependencies) throw new Refused(answer.error || "There was no proper answer.");
    return answer;
  }

  // What a try says, and how it stands to the intent. Nothing that a pod sees proves that
  // a packet was dropped on purpose, and an error that is no time-out proves nothing.
  function judge(got) {
    if (got.allowed) {
      switch (got.outcome) {
        case "connected": return ["match", "connected"];
        case "timeout": return ["mismatch", "no answer"];
        case "refused": return ["mismatch", "refused by the other side"];
      }
    } else {
      switch (got.outcome) {
        case "timeout": return ["match", "no answer (dropped)"];
        case "connected": return ["mismatch", "connected, and should not be"];
        case "refused": return ["mismatch", "refused by the other side: it got there"];
      }
    }
    return ["unclear", got.error || "could not tell"];
  }

  function mark(row, state, text, seconds) {
    row.dataset.state = state;
    $("[data-got]", row).textContent = text;
    $("[data-time]", row).textContent = seconds === undefined ? "" :
      seconds < 1 ? Math.max(1, Math.round(1000 * seconds)) + " ms" : seconds.toFixed(1) + " s";
    for (const thread of $$("[data-thread]", row.closest("[data-board]"))) {
      if (thread.dataset.thread === row.dataset.address) thread.dataset.state = state;
    }
  }

  const stamp = $("[data-stamp]"), words = $("[data-progress-text]"), bar = $("[data-progress]"), again = $("[data-again]");

  function progress(done) {
    const rows = $$(".edge");
    const count = (state) => rows.filter((row) => row.dataset.state === state).length;
    const tried = rows.filter((row) => !["waiting", "trying"].includes(row.dataset.state)).length;
    bar.max = rows.length || 1;
    bar.value = tried;
    const wrong = count("mismatch"), unclear = count("unclear");
    const besides = (wrong ? `, ${wrong} not as intended` : "") + (unclear ? `, ${unclear} unclear` : "");
    if (!done) {
      stamp.textContent = `Trying ${Math.min(tried + 1, rows.length)} of ${rows.length}`;
      stamp.className = "stamp stamp-busy";
      return;
    }
    words.textContent = `${tried} of ${rows.length} edges tried: ${count("match")} as intended${besides}.`;
    stamp.textContent = wrong ? "Not as intended" : unclear || !rows.length ? "Could not tell" : "As intended";
    stamp.className = "stamp " + (wrong ? "stamp-bad" : unclear || !rows.length ? "stamp-wait" : "stamp-good");
  }

  async function tryBoard(board) {
    for (const row of $$(".edge", board)) {
      mark(row, "trying", "trying …");
      try {
        const once = () => ask(board.dataset.api + "/edges", { address: row.dataset.address });
        let got = await once();
        // The first packets of an authenticated edge are dropped until both sides have
        // proven who they are, which may take longer than one try.
        if (got.allowed && got.outcome === "timeout") got = await once();
        row.dataset.outcome = got.outcome;
        mark(row, ...judge(got), got.seconds);
      } catch (error) {
        row.dataset.outcome = "";
        mark(row, "unclear", error instanceof Refused ? error.message : "The site did not answer.");
      }
      progress(false);
    }
  }

  async function tryAll() {
    again.disabled = true;
    again.hidden = bar.hidden = false;
    words.textContent = "The pods are trying every edge. A denied one takes until its time is up.";
    for (const row of $$(".edge")) mark(row, "waiting", "not tried yet");
    progress(false);
    // Each pod tries one edge after another; the pods do so at the same time.
    await Promise.all($$("[data-board]").map(tryBoard));
    progress(true);
    again.disabled = false;
  }

  const pad = (n) => String(n).padStart(2, "0");
  function span(ms) {
    const s = Math.max(0, Math.round(ms / 1000));
    const h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;
    return h ? `${h}:${pad(m)}:${pad(s % 60)}` : `${m}:${pad(s % 60)}`;
  }

  function tick() {
    for (const clock of $$("[data-svid]")) {
      const from = Date.parse(clock.dataset.notBefore), to = Date.parse(clock.dataset.notAfter);
      const share = Math.min(1, Math.max(0, (to - now()) / (to - from)));
      $("[data-left]", clock).textContent = span(to - now());
      $("[data-bar]", clock).setAttribute("width", (100 * share).toFixed(2));
      clock.toggleAttribute("data-low", share < 0.2);
    }
    const age = $("[data-db-age]"), left = $("[data-db-left]");
    age.textContent = span(now() - Date.parse(age.dataset.since));
    left.textContent = span(Date.parse(left.dataset.expires) - now());
  }

  function showDatabase(database) {
    $("[data-database]").hidden = false;
    $("[data-db-user]").textContent = database.user;
    $("[data-db-age]").dataset.since = database.since;
    $("[data-db-left]").dataset.expires = database.expires;
    $("[data-db-rotations]").textContent = database.rotations;
  }

  function element(name, text, className) {
    const e = document.createElement(name);
    e.textContent = text;
    if (className) e.className = className;
    return e;
  }

  const form = $("[data-rotate]"), swap = $("[data-swap]");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = $("button", form);
    button.disabled = true;
    try {
      const got = await ask("/api/demo/rotate", {});
      const line = element("p", "");
      line.append(element("s", got.old_user), element("span", " became ", "sr"), element("b", got.new_user));
      const after = `in ${got.seconds.toFixed(2)} s; ` + (got.old_gone ? "the old one no longer exists" : "the old one is still there");
      swap.replaceChildren(line, element("p", after, "hush"));
      showDatabase(await ask("/api/demo/database"));
      tick();
    } catch (error) {
      swap.replaceChildren(element("p", error instanceof Refused ? error.message : "The site did not answer.", "wrong"));
    }
    button.disabled = false;
  });

  function showLamps(health) {
    const list = $("[data-lamps]");
    if (!list) return;
    list.replaceChildren(...Object.keys(health.dependencies).sort().map((name) => {
      const { ok, detail } = health.dependencies[name];
      const lamp = element("li", "", "lamp");
      lamp.dataset.ok = ok;
      const bulb = element("span", "", "bulb");
      bulb.setAttribute("aria-hidden", "true");
      lamp.append(bulb, element("span", name, "lamp-name"), " ", element("span", ok ? "answers" : detail || "missing", "lamp-state"));
      return lamp;
    }));
  }

  // What changes by itself is asked for now and then, while somebody looks. What
  // cannot be had stays as it was.
  function every(seconds, what) {
    setInterval(() => { if (!document.hidden) what().catch(() => {}); }, seconds * 1000);
  }
  for (const board of $$("[data-board]")) {
    const clock = $("[data-svid]", board);
    if (!clock) continue;
    every(15, async () => {
      const svid = await ask(board.dataset.api + "/svid");
      clock.dataset.notBefore = svid.not_before;
      clock.dataset.notAfter = svid.not_after;
      $("[data-serial]", clock).textContent = svid.serial;
    });
  }
  every(5, async () => showDatabase(await ask("/api/demo/database")));
  every(10, async () => showLamps(await ask("/api/health/ready")));
  setInterval(tick, 1000);
  tick();
  again.addEventListener("click", tryAll);
  tryAll();
})();
