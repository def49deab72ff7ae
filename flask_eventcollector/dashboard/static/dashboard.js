// Updates the overview while it is visible. Everything works without this, too.
"use strict";

const EVERY = 2000;
// Otherwise, an app that hangs would leave old numbers on the page for hours.
const PATIENCE = 10000;

const live = document.getElementById("live");
if (live) {
  keepUpToDate(live);
}
const all = document.getElementById("all");
if (all) {
  all.parentElement.hidden = false;
  all.addEventListener("change", () => {
    for (const box of document.querySelectorAll("input[name=id]")) {
      box.checked = all.checked;
    }
  });
}

function keepUpToDate(live) {
  const updated = document.getElementById("updated");
  const said = document.getElementById("said");
  const pause = document.getElementById("pause");
  let timer = 0;
  let health = "";
  let isPaused = false;

  function schedule() {
    clearTimeout(timer);
    if (!isPaused && !document.hidden) {
      timer = setTimeout(refresh, EVERY);
    }
  }

  async function refresh() {
    try {
      const signal = AbortSignal.timeout(PATIENCE);
      const response = await fetch(live.dataset.url, { redirect: "error", signal });
      if (!response.ok) {
        throw new Error(response.statusText);
      }
      show(await response.json());
      updated.textContent = "Updated " + new Date().toLocaleTimeString();
    } catch {
      updated.textContent = "No answer from the app: trying again";
    }
    schedule();
  }

  function show(state) {
    for (const part of live.querySelectorAll("[data-part]")) {
      // What has the focus stays as it is, lest the focus be lost.
      const focused = document.activeElement;
      if (part === focused || !part.contains(focused)) {
        part.innerHTML = state.parts[part.dataset.part];
      }
    }
    document.title = state.waiting + " waiting · events";
    if (health && health !== state.health) {
      said.textContent = document.getElementById("health").textContent;
    }
    health = state.health;
  }

  pause.hidden = false;
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.textContent = isPaused ? "Resume updates" : "Pause updates";
    updated.textContent = isPaused ? "Paused" : "";
    schedule();
  });
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (!document.hidden && !isPaused) {
      refresh();
    }
  });
  updated.textContent = "Updates every two seconds";
  schedule();
}
