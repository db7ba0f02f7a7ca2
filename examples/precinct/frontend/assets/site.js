// What every page can do without, and is nicer with.
"use strict";

// A form is sent once.
for (const form of document.querySelectorAll("form[method=post]:not([data-rotate])")) {
  form.addEventListener("submit", () => {
    const button = form.querySelector("button[type=submit]");
    setTimeout(() => { button.disabled = true; });
  });
}
// Coming back by the browser's history shows the form as it was: usable.
addEventListener("pageshow", () => {
  for (const button of document.querySelectorAll("button[type=submit][disabled]")) button.disabled = false;
});

const sees = document.getElementById("script-sees");
if (sees) {
  sees.textContent = document.cookie === "" ?
    "This page's script has just looked for cookies, and sees none." :
    "This page's script sees a cookie, and should not.";
  sees.hidden = false;
}
