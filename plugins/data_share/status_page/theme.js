// Uses the light or dark theme of Airflow's UI around this page; outside of it, the browser's preference (page.css).
{
  const outer = () => {
    try {
      return window.parent === window ? null : window.parent.document.documentElement;
    } catch {
      return null; // another site embeds the page
    }
  };

  const follow = () => {
    const theme = ["dark", "light"].find((name) => outer()?.classList.contains(name));
    if (theme) document.documentElement.dataset.theme = theme;
  };

  follow();
  if (outer()) new MutationObserver(follow).observe(outer(), { attributeFilter: ["class"] });
}
