// What the search shows first: lessons, then pages such as the results, then the package's modules.
var Scorer = {
  score: ([docname, , , , score]) =>
    score + (docname.startsWith("notebooks/") ? 100 : docname.startsWith("api/") ? -100 : 0),
  // Sphinx's own figures: what a match of a name, a title or a word counts
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
