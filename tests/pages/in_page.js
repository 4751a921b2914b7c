// What the browser tests ask of a page. Each function returns a list of offenders, as text.
window.bookTest = (() => {
  const article = document.querySelector("article.bd-article") || document.body;
  const name = (e) => `<${e.tagName.toLowerCase()} class="${e.getAttribute("class") || ""}"> ${(e.textContent || "").trim().slice(0, 60)}`;
  const visible = (e) => e.checkVisibility ? e.checkVisibility({ opacityProperty: true, visibilityProperty: true }) : e.offsetParent !== null;

  let waiting = false, typeset = !document.querySelector("script[src*=mathjax]");
  const ready = () => {
    if (!typeset && !waiting && window.MathJax && MathJax.startup && MathJax.startup.promise) {
      waiting = true;
      MathJax.startup.promise.then(() => { typeset = true; });
    }
    return document.readyState === "complete" && typeset && [...document.querySelectorAll("figure.slider-figure")].every((f) => f.vegaView);
  };

  const unrenderedMaths = () => [
    ...[...article.querySelectorAll(".math")].filter((e) => !e.querySelector("mjx-container")),
    ...article.querySelectorAll("mjx-merror"),
  ].map(name);

  const prose = () => {
    const copy = article.cloneNode(true);
    copy.querySelectorAll("pre, code, script, style, mjx-container, noscript").forEach((e) => e.remove());
    return copy.textContent;
  };

  const scrollsInside = (e) => {
    for (let p = e; p && p !== article; p = p.parentElement) if (/auto|scroll|hidden/.test(getComputedStyle(p).overflowX)) return true;
    return false;
  };
  const tooWide = () => {
    document.querySelectorAll("details").forEach((d) => { d.open = true; });
    const width = document.documentElement.clientWidth;
    const out = document.documentElement.scrollWidth > width ? [`the page: ${document.documentElement.scrollWidth} > ${width}`] : [];
    return out.concat([...article.querySelectorAll("*")]
      .filter((e) => e.getBoundingClientRect().right > width + 1 && visible(e) && !e.closest("mjx-assistive-mml") && !scrollsInside(e)).map(name));
  };

  const brokenImages = () => [...article.querySelectorAll("img")].filter((i) => !i.complete || !i.naturalWidth).map((i) => i.src);

  // WCAG contrast of text against what is painted behind it.
  const channels = (text) => {
    const numbers = (text.match(/-?[\d.]+(e-?\d+)?/g) || []).map(Number);
    if (text.startsWith("color(srgb")) return [...numbers.slice(0, 3).map((x) => 255 * x), numbers[3] ?? 1];
    return [...numbers.slice(0, 3), numbers[3] ?? 1];
  };
  const over = (top, under) => [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * under[i]).concat(1);
  const background = (e) => {
    const layers = [];
    for (let p = e; p; p = p.parentElement) {
      const layer = channels(getComputedStyle(p).backgroundColor);
      layers.push(layer);
      if (layer[3] === 1) break;
    }
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255, 1]);
  };
  const luminance = (c) => {
    const [r, g, b] = c.slice(0, 3).map((x) => x / 255).map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (e) => {
    const under = background(e);
    const [a, b] = [luminance(over(channels(getComputedStyle(e).color), under)), luminance(under)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const lowContrast = () => {
    document.querySelectorAll("details").forEach((d) => { d.open = true; });
    return [...article.querySelectorAll("*")]
      .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
      .filter((e) => visible(e) && !e.closest("script, style, noscript, svg, .headerlink, mjx-assistive-mml"))
      .map((e) => [contrast(e), e])
      .filter(([ratio, e]) => ratio < (e.closest("pre") ? 3 : 4.5))
      .map(([ratio, e]) => `${ratio.toFixed(2)} ${name(e)}`);
  };

  // Faults that axe-core calls serious or critical. Left out: the theme's two buttons whose label (aria-label) is not what they
  // show, an icon and a key, which is in the theme's templates; and what MathJax draws, which has its own MathML for screen readers.
  const themeButtons = { "label-content-name-mismatch": ".search-button-field, .theme-switch-button" };
  const barriers = async (done) => {
    document.querySelectorAll("details").forEach((d) => { d.open = true; });
    document.head.insertAdjacentHTML("beforeend", "<style>* { animation: none !important; transition: none !important; }</style>");
    const found = await axe.run({ exclude: ["mjx-container"] }, { resultTypes: ["violations"], elementRef: true });
    done(found.violations.filter(({ impact }) => impact === "serious" || impact === "critical").flatMap(({ id, nodes }) => nodes
      .filter(({ element }) => !(themeButtons[id] && element.matches(themeButtons[id])))
      .map(({ element }) => `${id}: ${name(element)}`)));
  };

  const moveSliders = async (done) => {
    const results = [];
    for (const figure of document.querySelectorAll("figure.slider-figure")) {
      for (const input of figure.querySelectorAll("input[type=range]")) {
        const before = figure.querySelector("svg").outerHTML;
        input.value = Number(input.value) === Number(input.max) ? input.min : input.max;
        input.dispatchEvent(new Event("input"));
        await figure.vegaView.runAsync();
        await new Promise((go) => setTimeout(go, 300));
        results.push({ id: figure.id, changed: figure.querySelector("svg").outerHTML !== before });
      }
    }
    done(results);
  };

  const wrongReplies = () => {
    const out = [];
    for (const form of document.querySelectorAll("form.fill-in")) {
      const status = form.querySelector("[role=status]");
      const answer = (value) => { form.querySelector("input").value = value; form.requestSubmit(); return status; };
      for (const reply of JSON.parse(form.dataset.replies).replies) {
        if (answer(String(reply.value)).className !== (reply.right ? "right" : "wrong")) out.push(name(form));
      }
      if (answer("x").className === "right" || answer("").className === "right") out.push(name(form));
    }
    for (const checkpoint of document.querySelectorAll(".checkpoint")) {
      if (!checkpoint.querySelector("form, .choice.right")) out.push(name(checkpoint));
    }
    return out;
  };

  return { ready, unrenderedMaths, prose, tooWide, brokenImages, lowContrast, barriers, moveSliders, wrongReplies };
})();
