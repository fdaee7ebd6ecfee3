// Live figures: every second, the gateway sends what it does now.

const places = document.querySelectorAll("[data-live]");
const state = document.querySelector("[data-live-state]");

if (places.length > 0) {
  const source = new EventSource("/live");
  source.addEventListener("message", (event) => {
    const figures = JSON.parse(event.data);
    for (const place of places) {
      const figure = figures[place.dataset.live];
      if (typeof figure === "number") place.textContent = figure.toLocaleString("en");
    }
    show("live");
  });
  source.addEventListener("error", () => show(source.readyState === EventSource.CLOSED ? "ended" : "waiting"));
  addEventListener("pagehide", () => source.close());
}

function show(name) {
  if (!state || state.dataset.liveState === name) return;
  state.dataset.liveState = name;
  state.textContent = { live: "live", waiting: "reconnecting…", ended: "not live: reload the page" }[name];
}
