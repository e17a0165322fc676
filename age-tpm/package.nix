# The age plugin for TPM-held identities, with its man page and completions.
{ callPackage }:
callPackage ../nixos-guest-module/rust-package.nix { } {
  pname = "age-plugin-tpm";
  crate = "age-tpm";
  mainProgram = "age-plugin-tpm";
  description = "age plugin for identities that a TPM 2.0 holds";
  postInstall = ''
    install -Dm644 -t "$out/share/man/man1" age-tpm/man/age-plugin-tpm.1
    install -Dm644 age-tpm/completions/age-plugin-tpm.bash "$out/share/bash-completion/completions/age-plugin-tpm"
    install -Dm644 age-tpm/completions/age-plugin-tpm.fish "$out/share/fish/vendor_completions.d/age-plugin-tpm.fish"
    install -Dm644 age-tpm/completions/_age-plugin-tpm "$out/share/zsh/site-functions/_age-plugin-tpm"
  '';
}
