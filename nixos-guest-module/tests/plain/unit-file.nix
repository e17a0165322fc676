# Tests of ../../lib/unit-file.nix, on the agent's own unit too.
let
  inherit (import ../../lib) unitFile;
  agent = unitFile.parse (builtins.readFile ../../../guest-agent/systemd/seed-agent.service);
  fails = text: !(builtins.tryEval (builtins.deepSeq (unitFile.parse text) true)).success;
in
{
  "sections, comments, repeats and empty values" = {
    got = unitFile.parse ''
      # note
      [Unit]
      After=a.service b.service
      ; note
      After=c.service

      [Service]
      ExecStart=
      ExecStart=/bin/x --flag=[1]
    '';
    want = {
      Unit.After = [
        "a.service b.service"
        "c.service"
      ];
      Service.ExecStart = [
        ""
        "/bin/x --flag=[1]"
      ];
    };
  };
  "lists of units are split" = {
    got = unitFile.unitNames [
      "a.service  b.service"
      "c.service"
    ];
    want = [
      "a.service"
      "b.service"
      "c.service"
    ];
  };
  "lines that go on, and lines that are nothing, are refused" = {
    got = [
      (fails "[Unit]\nAfter=a \\\n")
      (fails "[Unit]\nAfter\n")
    ];
    want = [
      true
      true
    ];
  };
  "the agent's unit has what the module takes from it" = {
    got = {
      wantedBy = unitFile.unitNames agent.Install.WantedBy;
      waits = agent.Service.Type;
      early = agent.Unit.DefaultDependencies;
      before = unitFile.unitNames agent.Unit.Before;
      afterUsers = builtins.elem "userborn.service" (unitFile.unitNames agent.Unit.After);
    };
    want = {
      wantedBy = [ "sysinit.target" ];
      waits = [ "notify" ];
      early = [ "no" ];
      before = [ "sysinit.target" ];
      afterUsers = true;
    };
  };
}
