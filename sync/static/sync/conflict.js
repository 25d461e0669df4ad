// The page of one conflict: shows at once what a pick makes of the row, and does with keys what the mouse does.
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("decision");
  if (!form) return;
  const blocks = [...form.querySelectorAll(".stake")];
  const picked = (block) => block.querySelector("input[type=radio]:checked");

  // --- the row as it will be ---

  function ownText(widget) {
    if (widget.matches("select")) return widget.selectedOptions[0]?.text ?? "";
    return widget.value === "" ? "(empty)" : widget.value;
  }

  function valuesOf(block) {
    const pick = picked(block);
    if (!pick) return null;
    if (pick.value === "own") return [...block.querySelectorAll("[data-own]")].map(ownText);
    return [...pick.closest(".pick").querySelectorAll(".value")].map((value) => value.dataset.text);
  }

  function show() {
    const row = form.querySelector('[name="whole-row"]:checked');
    const gone = row?.hasAttribute("data-deletes") || (row?.value === "server" && form.querySelector("[data-only-with-row]"));
    form.querySelector(".gone").hidden = !gone;
    document.getElementById("result").hidden = Boolean(gone);
    let open = 0;
    for (const block of blocks) {
      const lines = form.querySelectorAll(`#result [data-block="${CSS.escape(block.dataset.block)}"]`);
      const values = valuesOf(block);
      if (!values && block.querySelector("input[required], input[type=radio]")) open += 1;
      lines.forEach((line, at) => {
        const text = values ? values[at] ?? line.dataset.now : line.dataset.now;
        const dd = line.querySelector("dd");
        if (dd.textContent !== text) dd.textContent = text;
        line.classList.toggle("changed", text !== line.dataset.now);
        line.classList.toggle("undecided", !values);
      });
    }
    const progress = document.getElementById("progress");
    if (progress) progress.textContent = open === 0 ? "Everything is decided." : `${open} to decide.`;
  }

  let touched = "touched" in form.dataset;
  form.addEventListener("change", () => { touched = true; show(); });
  function owned(event) {
    if (!event.target.matches("[data-own]")) return;
    event.target.closest(".pick").querySelector("input[type=radio]").checked = true;
    touched = true;
    show();
  }
  form.addEventListener("input", owned);
  // The admin's search for a referenced row tells of a choice by jQuery's events alone.
  window.django?.jQuery?.(form).on("change", "select[data-own]", owned);

  function pickAll(side) {
    for (const block of blocks) {
      const radio = block.querySelector(`input[value="${side}"]`);
      if (radio && !radio.disabled) radio.checked = true;
    }
    touched = true;
    show();
  }
  form.querySelectorAll("[data-pick-all]").forEach((button) => button.addEventListener("click", (event) => {
    event.preventDefault();
    pickAll(button.dataset.pickAll);
  }));

  let leaving = false;
  form.addEventListener("submit", () => { leaving = true; });
  window.addEventListener("beforeunload", (event) => { if (touched && !leaving) event.preventDefault(); });

  // --- keys ---

  const help = document.getElementById("help");
  document.getElementById("help-open")?.addEventListener("click", () => help.showModal());

  function typing(element) {
    return element.matches("textarea, select, [contenteditable], [role=combobox], input:not([type=radio])");
  }

  function move(step) {
    const at = blocks.findIndex((block) => block.contains(document.activeElement));
    const block = blocks[at === -1 ? 0 : Math.min(Math.max(at + step, 0), blocks.length - 1)];
    (picked(block) ?? block.querySelector("input[type=radio]"))?.focus();
    block.scrollIntoView({ block: "nearest" });
  }

  // The block that keys are about: the one with the focus, or else the first that is not decided.
  function current() {
    return blocks.find((block) => block.contains(document.activeElement)) ?? blocks.find((block) => !picked(block)) ?? blocks[0];
  }

  function pick(side) {
    const radio = current()?.querySelector(`input[value="${side}"]`);
    if (!radio || radio.disabled) return;
    radio.click();
    if (side === "own") enter(current().querySelector("[data-own]"));
    else radio.focus();
  }

  function enter(own) {
    (own?.nextElementSibling?.querySelector(".select2-selection") ?? own)?.focus();
    own?.select?.();
  }

  const actions = {
    j: () => move(1), k: () => move(-1), 1: () => pick("base"), 2: () => pick("server"), 3: () => pick("device"),
    4: () => pick("own"), e: () => pick("own"), S: () => pickAll("server"), D: () => pickAll("device"),
    c: () => document.getElementById("id_comment")?.focus(), "?": () => help.showModal(),
    n: () => document.querySelector('[data-key="n"][href]')?.click(),
    p: () => document.querySelector('[data-key="p"][href]')?.click(),
    u: () => document.querySelector('[data-key="u"]')?.click(),
  };

  document.addEventListener("keydown", (event) => {
    if (help.open || event.altKey || event.isComposing) return;
    const save = form.querySelector(event.shiftKey ? "[name=_next]" : "[name=_save]");
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      if (save) form.requestSubmit(save);
    } else if (event.key === "Enter" && event.target.matches("#decision input")) {
      event.preventDefault(); // it would press the form's first button
    } else if (event.key === "Escape" && typing(event.target)) {
      current()?.focus();
    } else if (!event.ctrlKey && !event.metaKey && !typing(event.target) && Object.hasOwn(actions, event.key)) {
      event.preventDefault();
      actions[event.key]();
    }
  });

  show();
});
