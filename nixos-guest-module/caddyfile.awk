# Puts `acme_ca` (the variable `address`) into the global options of a Caddyfile, and makes such a block where there
# is none. A file that names an authority itself stays as it is; so does one that begins with an import, which may
# bring global options of its own.
{ lines[NR] = $0 }
/^[[:space:]]*acme_ca[[:space:]]/ { named = 1 }
first || /^[[:space:]]*(#|$)/ { next }
{ first = NR }
END {
  if (first == 0 || lines[first] ~ /^[[:space:]]*import[[:space:]]/) named = 1
  has_block = lines[first] ~ /^[[:space:]]*[{][[:space:]]*(#.*)?$/
  for (at = 1; at <= NR; at++) {
    if (at == first && !named && !has_block) printf "{\n\tacme_ca %s\n}\n", address
    print lines[at]
    if (at == first && !named && has_block) printf "\tacme_ca %s\n", address
  }
}
