# From what exportReferencesGraph tells of a closure to Markdown: how large it is, and its ten largest paths.
def mebibytes: (. / 1048576 * 10 | round / 10 | tostring) + " MiB";
.closure
| "\(map(.narSize) | add | mebibytes) in \(length) paths. The ten largest:",
  "",
  "| path | size |",
  "|---|---:|",
  (sort_by(-.narSize, .path)[:10][] | "| `\(.path | sub("^.*/[a-z0-9]{32}-"; ""))` | \(.narSize | mebibytes) |")
