// While a run is at work its page is read again, and what has changed is put into it: nobody has to reload.
"use strict";

const SECONDS = 2;

document.addEventListener("DOMContentLoaded", () => wait());

function wait() {
  if (document.querySelector("[data-live][data-again]")) setTimeout(again, SECONDS * 1000);
}

async function again() {
  const here = document.querySelector("[data-live]");
  if (document.hidden || here.querySelector("details[open] form")) return wait(); // nobody looks; or somebody writes
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = answer.ok && page.querySelector("[data-live]");
    if (!fresh) return location.reload(); // signed out meanwhile, perhaps
    if (fresh.outerHTML.replace(/csrf\w+" value="\w+"/g, "") !== here.outerHTML.replace(/csrf\w+" value="\w+"/g, "")) {
      const focused = document.activeElement?.getAttribute("aria-label");
      here.replaceWith(fresh);
      if (focused) fresh.querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
    }
  } catch {
    // The server is not there for a moment: asked again.
  }
  wait();
}
