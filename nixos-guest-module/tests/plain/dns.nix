# Tests of ../../lib/dns.nix.
let
  inherit (import ../../lib) dns;
in
{
  "names are DNS names" = {
    got = dns.problems [
      "example.com"
      "www.example.com"
    ];
    want = [ ];
  };
  "capital letters, a last dot and a single label are refused" = {
    got = builtins.length (
      dns.problems [
        "Example.com"
        "example.com."
        "localhost"
        "-a.example.com"
      ]
    );
    want = 4;
  };
  "a name that is there twice is named once" = {
    got = dns.problems [
      "example.com"
      "example.com"
    ];
    want = [ "seed.dns.names: \"example.com\" is there more than once. Keep one of them." ];
  };
  "domains as the reference has them" = {
    got = dns.domainProblems {
      "example.com" = {
        register = true;
        default = true;
      };
      "example.org" = { };
    };
    want = [ ];
  };
  "unknown settings, wrong kinds and two defaults of domains are said" = {
    got = dns.domainProblems {
      "example.com" = {
        registered = true;
        default = true;
      };
      "example.org".default = true;
      "example.net".register = "yes";
    };
    want = [
      "combine.domains.\"example.com\".registered: there is no such setting. Use register and default, or remove it."
      "combine.domains.\"example.net\".register: this is neither true nor false. Set it to one of them."
      "combine.domains: example.com, example.org all are the default. Set default = true; on one of them."
    ];
  };
  "a name belongs to its domain and to those above it, not to one that ends alike" = {
    got = dns.strayNames {
      domains."example.com" = { };
      names = {
        web = [
          "example.com"
          "www.example.com"
          "badexample.com"
        ];
      };
    };
    want = [
      "seed.dns.names of web: \"badexample.com\" belongs to no domain in combine.domains. Declare its domain there, or remove the name."
    ];
  };
}
