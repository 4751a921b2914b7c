// Behaviour of bookkit.py: fill-in checkpoints and figures with sliders. No network, no kernel; Vega is loaded only where a slider figure is.
"use strict";
(() => {
  const here = document.currentScript.src.replace(/bookkit\.js.*$/, "");

  for (const form of document.querySelectorAll("form.fill-in")) {
    const { tol, replies } = JSON.parse(form.dataset.replies);
    const status = form.querySelector("[role=status]");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const typed = form.querySelector("input").value.trim().replace("−", "-").replace(",", ".");
      const given = Number(typed);
      const reply = replies.find((r) => Math.abs(r.value - given) <= tol);
      const right = Boolean(reply && reply.right);
      if (typed === "" || Number.isNaN(given)) status.textContent = "Type a number, such as 0.25.";
      else if (reply) status.innerHTML = `<strong>${right ? "✓ Right." : "✗ Not quite."}</strong> ${reply.text}`;
      else status.textContent = "✗ Not quite. Try again, or look at the answer below.";
      status.className = right ? "right" : "wrong";
      if (window.MathJax && MathJax.typesetPromise) MathJax.typesetPromise([status]);
    });
  }

  // Checkpoints have numbers and choices letters: to speak of, and as a name where there is nothing else but a formula.
  document.querySelectorAll(".checkpoint").forEach((checkpoint, i) => {
    checkpoint.setAttribute("aria-label", `Checkpoint ${i + 1}`);
    if (checkpoint.querySelector("form")) return;
    checkpoint.querySelectorAll(".choice > summary").forEach((summary, k) => summary.prepend(`${"ABCDEFGHIJ"[k]}. `));
  });

  // What scrolls sideways must be reachable with the keyboard.
  const wide = ".bd-article :is(table, pre, .cell_output .output)";
  const reach = () => document.querySelectorAll(wide).forEach((e) => {
    if (e.scrollWidth > e.clientWidth) e.tabIndex = 0;
    else if (e.tabIndex === 0) e.removeAttribute("tabindex");
  });
  const inline = () => document.querySelectorAll(".bd-article mjx-container:not([display])").forEach((e) => {
    e.classList.remove("wide");
    const line = e.closest("p, li, dd, td, th, figcaption, summary");
    if (line && e.offsetWidth > line.clientWidth && line.clientWidth && !e.closest("table")) e.classList.add("wide");
  });
  new ResizeObserver(() => { reach(); inline(); }).observe(document.querySelector(".bd-article") || document.body);
  document.addEventListener("toggle", inline, true);

  const figures = [...document.querySelectorAll("figure.slider-figure")];
  if (!figures.length) return;
  const draw = (figure) => {
    const spec = JSON.parse(figure.querySelector("script").textContent);
    spec.config = { background: "white", font: "system-ui, sans-serif", axis: { labelFontSize: 12, titleFontSize: 13, grid: true, gridColor: "#E6E9EC" },
      title: { anchor: "start", fontSize: 14 }, legend: { orient: "bottom", labelFontSize: 12, titleFontSize: 12 }, view: { stroke: null }, ...spec.config };
    return vegaEmbed(figure.querySelector("div"), spec, { actions: false, renderer: "svg" }).then(({ view }) => {
      figure.querySelector("svg").setAttribute("aria-hidden", "true"); // around it stands the description; single marks only add noise
      figure.vegaView = view;
    });
  };
  const script = document.createElement("script");
  script.src = here + "vega/vega.js";
  script.onload = () => figures.forEach(draw);
  document.head.append(script);
})();
