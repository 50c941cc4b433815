// Draws the panels of a page with plotly, in the page's colours, light or dark, and for its width.
"use strict";
(() => {
  const page = JSON.parse(document.getElementById("charts").textContent);
  const section = document.querySelector(".charts");
  const form = section.querySelector("form");
  const places = [...section.querySelectorAll(".chart")];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 700px)");
  const config = {
    displaylogo: false,
    // These alone: others would send the data away.
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  };
  const LEGEND = 270; // pixels at the right, in every panel, so that their axes lie below each other
  const named = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // A colour that is too dark for a dark page, halfway to white.
  function lightened(hex) {
    const parts = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    const light = (0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]) / 255;
    return light > 0.45 ? hex : `rgb(${parts.map((each) => Math.round((each + 255) / 2)).join(",")})`;
  }

  function extent(axis) {
    const values = page.tables.flatMap((table) => table[axis]).filter((value) => value !== null);
    return [values.reduce((a, b) => Math.min(a, b), Infinity), values.reduce((a, b) => Math.max(a, b), -Infinity)];
  }

  function traces(panel, axis, ink, ends) {
    const colour = (each) => (each === "ink" ? ink : dark.matches ? lightened(each) : each);
    const found = panel.lines.map((line) => {
      const x = page.tables[line.x][axis];
      return {
        x,
        y: line.y,
        name: line.name,
        type: "scatter",
        mode: x.length <= 60 && !line.faint ? "lines+markers" : "lines",
        marker: { size: 5 },
        opacity: line.faint ? 0.3 : 1,
        line: { color: colour(line.colour), width: line.faint ? 1 : 2, dash: line.dash },
        legendgroup: line.group || line.name,
        showlegend: line.named && !line.faint,
        hoverinfo: line.faint ? "skip" : "x+y+name",
        connectgaps: true,
      };
    });
    for (const level of panel.levels) {
      found.push({
        x: ends,
        y: [level.value, level.value],
        name: level.name,
        type: "scatter",
        mode: "lines",
        line: { color: colour(level.colour), width: 1.5, dash: level.dash },
        hoverinfo: "y+name",
      });
    }
    return found;
  }

  function layout(panel, number, axis, log, ends) {
    const [ink, soft, line, ground] = ["--ink", "--soft", "--line", "--ground"].map(named);
    const marks = page.marks.filter((mark) => typeof mark.x[axis] === "number");
    const shown = panel.lines.filter((each) => each.named && !each.faint).length + panel.levels.length;
    const grid = { gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line };
    const small = narrow.matches;
    return {
      height: small ? 300 + 20 * shown : number === 0 ? 400 : 280,
      margin: { l: 52, r: small ? 12 : LEGEND, t: 38, b: 40 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, family: "system-ui, sans-serif", size: 12 },
      hoverlabel: { bgcolor: ground, bordercolor: line, font: { color: ink }, namelength: -1 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: ink },
      legend: small ? { orientation: "h", x: 0, y: -0.16, yanchor: "top" } : { x: 1.01, y: 1 },
      showlegend: shown > 1 || panel.levels.length > 0,
      uirevision: "kept",
      xaxis: { ...grid, uirevision: axis, exponentformat: "SI", range: ends },
      yaxis: {
        ...grid,
        uirevision: String(log),
        type: log ? "log" : "linear",
        exponentformat: "SI",
        ...(panel.range && !log ? { range: panel.range } : {}),
      },
      shapes: marks.map((mark) => ({
        type: "line",
        x0: mark.x[axis],
        x1: mark.x[axis],
        y0: 0,
        y1: 1,
        yref: "paper",
        line: { color: soft, width: 1, dash: "dash" },
      })),
      // Neighbours take turns in height; a small screen has room for the names once.
      annotations: (small && number > 0 ? [] : marks).map((mark, index) => ({
        text: mark.name,
        x: mark.x[axis],
        y: 1,
        yref: "paper",
        yshift: index % 2 ? 13 : 0,
        yanchor: "bottom",
        showarrow: false,
        font: { color: soft, size: 11 },
      })),
    };
  }

  function draw() {
    const axis = form.elements.axis.value;
    const log = form.elements.log.checked;
    const ends = extent(axis);
    page.panels.forEach((panel, number) => {
      Plotly.react(places[number], traces(panel, axis, named("--ink"), ends), layout(panel, number, axis, log, ends), {
        ...config,
        displayModeBar: narrow.matches ? false : "hover",
      });
    });
  }

  section.hidden = false;
  form.querySelector("input").checked = true;
  form.addEventListener("change", draw);
  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
  draw();
  let width = section.clientWidth;
  new ResizeObserver(() => {
    if (section.clientWidth === width) return;
    width = section.clientWidth;
    places.forEach((place) => Plotly.Plots.resize(place));
  }).observe(section);
})();
