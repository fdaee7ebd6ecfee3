// What every page has: times in the reader's zone, the theme switch, copying, and questions before changes.

const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const short = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });

export function showTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    time.textContent = (time.closest(".x-axis") ? short : format).format(at);
    time.title = time.dateTime.replace("T", " ").replace("Z", " UTC");
  }
}
showTimes(document);

const themes = ["system", "light", "dark"];
const button = document.getElementById("theme");
if (button) {
  const shown = () => document.documentElement.dataset.theme ?? "system";
  const label = () => { button.textContent = `Theme: ${shown()}`; };
  button.addEventListener("click", () => {
    const next = themes[(themes.indexOf(shown()) + 1) % themes.length];
    if (next === "system") {
      localStorage.removeItem("theme");
      delete document.documentElement.dataset.theme;
    } else {
      localStorage.setItem("theme", next);
      document.documentElement.dataset.theme = next;
    }
    label();
  });
  label();
  button.hidden = false;
}

for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  });
}

for (const place of document.querySelectorAll("[data-origin]")) place.textContent = location.origin;

for (const form of document.querySelectorAll("form[data-confirm]")) {
  form.addEventListener("submit", (event) => {
    if (!confirm(form.dataset.confirm)) event.preventDefault();
  });
}
