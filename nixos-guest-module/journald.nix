# The journal as the host follows it: one, on disk, with nothing dropped. Limits are the closure's, since the
# host keeps what it has pulled.
{ lib, ... }:
{
  services.journald = {
    storage = lib.mkDefault "persistent";
    rateLimitInterval = lib.mkDefault "0";
    rateLimitBurst = lib.mkDefault 0;
    extraConfig = ''
      SplitMode=none
      SystemMaxUse=64M
      RuntimeMaxUse=32M
      SystemMaxFileSize=8M
      ForwardToSyslog=no
      ForwardToWall=no
    '';
  };
}
