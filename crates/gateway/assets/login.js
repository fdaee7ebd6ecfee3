// A browser sends no cookie when a link elsewhere leads here. Whoever is signed in then goes on to the page at once.
const next = document.getElementById("next")?.value;
if (next && !document.querySelector("[role=alert]")) {
  const reply = await fetch(next, { redirect: "manual" });
  if (reply.ok) location.replace(next);
}
