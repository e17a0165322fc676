# The programs as packages of nixpkgs.
final: _: {
  seed-agent = final.callPackage ../guest-agent/package.nix { };
  seed-shim = final.callPackage ../host-shim/package.nix { };
  seed-shell = final.callPackage ../seed-shell/package.nix { };
  # nixpkgs has a Go program as age-plugin-tpm; this one takes its place under a name of its own.
  seed-age-plugin-tpm = final.callPackage ../age-tpm/package.nix { };
}
