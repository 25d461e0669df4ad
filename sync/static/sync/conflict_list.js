// The list of conflicts: filters apply when they are chosen, a range is selected with Shift, and keys do what the mouse does.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const narrow = document.getElementById("narrow");
  narrow?.addEventListener("change", (event) => event.target.matches("select") && submitted(narrow));
  narrow?.addEventListener("submit", (event) => { event.preventDefault(); submitted(narrow); });
  selection();
  keys();
});

// Submit without the parameters that say nothing.
function submitted(form) {
  const said = [...new FormData(form)].filter(([, value]) => value !== "");
  window.location.search = new URLSearchParams(said).toString();
}

function selection() {
  const all = document.getElementById("select-all");
  const boxes = [...document.querySelectorAll(".lines .select")];
  const bulk = document.getElementById("bulk");
  if (!all || !bulk) return;
  const across = bulk.querySelector("[data-across]");
  const across_field = bulk.querySelector("[name=select_across]");
  let last = null;

  const told = () => {
    const count = boxes.filter((box) => box.checked).length;
    all.checked = count === boxes.length;
    all.indeterminate = count > 0 && !all.checked;
    if (!all.checked) across_field.value = "0";
    const everywhere = across_field.value === "1";
    bulk.querySelector("[data-chosen]").textContent = everywhere ? `All ${across.dataset.across}` : count;
    if (across) across.hidden = everywhere || !all.checked;
  };
  all.addEventListener("change", () => { boxes.forEach((box) => { box.checked = all.checked; }); told(); });
  across?.addEventListener("click", () => { across_field.value = "1"; told(); });
  boxes.forEach((box, at) => box.addEventListener("click", (event) => {
    if (event.shiftKey && last !== null) {
      const [from, to] = [Math.min(last, at), Math.max(last, at)];
      boxes.slice(from, to + 1).forEach((each) => { each.checked = box.checked; });
    }
    last = at;
    told();
  }));
  told();
}

function keys() {
  const links = [...document.querySelectorAll(".lines .row-name")];
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    const at = links.indexOf(document.activeElement);
    if (event.key === "j") links[Math.min(at + 1, links.length - 1)]?.focus();
    else if (event.key === "k") links[Math.max(at - 1, 0)]?.focus();
    else if (event.key === "x" && at >= 0) links[at].closest("tr").querySelector(".select")?.click();
    else if (event.key === "/") document.querySelector("#narrow [name=q]")?.focus();
    else return;
    event.preventDefault();
  });
}

function typing(element) {
  return element.matches("textarea, select, [contenteditable], input:not([type=checkbox]):not([type=radio])");
}
