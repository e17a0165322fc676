# Tests of ../../lib/dns.nix.
let
  inherit (import ../../lib) dns;
in
{
  "names are DNS names" = {
    got = dns.problems [
      "example.com"
      "www.example.com"
      "www"
    ];
    want = [ ];
  };
  "capital letters, a last dot and what is no label are refused" = {
    got = builtins.length (
      dns.problems [
        "Example.com"
        "example.com."
        "local_host"
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
  "domains are a set" = {
    got = dns.domainProblems [ "example.com" ];
    want = [
      "combine.domains: this is no set of domains. Write combine.domains.\"example.com\" = { };"
    ];
  };
  "what is no domain and what is no set are said, each by itself" = {
    got = dns.domainProblems {
      "Example.com" = { };
      "example.org" = true;
    };
    want = [
      "combine.domains.\"Example.com\": this is no domain. Write it in lower case, such as \"example.com\"."
      "combine.domains.\"example.org\": this is no set of settings. Write { } or { register = true; }."
    ];
  };
  "a name belongs to its domain and to those above it, not to one that ends alike" = {
    got = dns.nameProblems {
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
  "a name that is not written in full is in the default domain" = {
    got =
      map
        (dns.inFull {
          "example.com".default = true;
          "example.org" = { };
        })
        [
          "www"
          "www.example.org"
        ];
    want = [
      "www.example.com"
      "www.example.org"
    ];
  };
  "without a default domain it is nowhere" = {
    got = dns.nameProblems {
      domains."example.com" = { };
      names.web = [ "www" ];
    };
    want = [
      "seed.dns.names of web: \"www\" is not written in full, and no domain in combine.domains is the default. Set default = true; on one, or write the name in full."
    ];
  };
  "one name is one instance's, however it is written" = {
    got = dns.nameProblems {
      domains."example.com".default = true;
      names = {
        api = [ "www" ];
        web = [ "www.example.com" ];
      };
    };
    want = [
      "seed.dns.names: \"www.example.com\" is wanted more than once, by api, web. Let one instance have it."
    ];
  };
}
