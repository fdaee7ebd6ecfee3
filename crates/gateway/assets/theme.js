// Sets the theme that the reader has chosen before the page is shown. Without a choice, the system decides.
const theme = localStorage.getItem("theme");
if (theme) document.documentElement.dataset.theme = theme;
