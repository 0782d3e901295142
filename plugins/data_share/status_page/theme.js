// Light or dark as Airflow's UI is, which frames this page; without that, as the browser prefers (page.css).
{
  const outer = () => {
    try {
      return window.parent === window ? null : window.parent.document.documentElement;
    } catch {
      return null; // framed by something else
    }
  };

  const follow = () => {
    const theme = ["dark", "light"].find((name) => outer()?.classList.contains(name));
    if (theme) document.documentElement.dataset.theme = theme;
  };

  follow();
  if (outer()) new MutationObserver(follow).observe(outer(), { attributeFilter: ["class"] });
}
