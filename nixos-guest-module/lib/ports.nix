# Well-known services: the port and the protocol that an entry of `seed.expose` has when it is only named.
# Ports are IANA's; a test compares them with /etc/services where the system has one (`iana` is the name
# there, when it is another). Protocols are ours: `http` and `grpc` have certificates, `dns` is TCP and UDP.
let
  tcp = port: {
    inherit port;
    protocol = "tcp";
  };
  udp = port: {
    inherit port;
    protocol = "udp";
  };
  http = port: {
    inherit port;
    protocol = "http";
  };
  dns = port: {
    inherit port;
    protocol = "dns";
  };
in
{
  amqp = tcp 5672;
  amqps = tcp 5671;
  dns = dns 53 // {
    iana = "domain";
  };
  domain = dns 53;
  domain-s = tcp 853;
  finger = tcp 79;
  ftp = tcp 21;
  git = tcp 9418;
  gopher = tcp 70;
  http = http 80;
  http-alt = http 8080;
  https = http 443;
  imap = tcp 143 // {
    iana = "imap2";
  };
  imaps = tcp 993;
  ipp = tcp 631;
  irc = tcp 6667;
  ircs-u = tcp 6697;
  kerberos = dns 88;
  ldap = tcp 389;
  ldaps = tcp 636;
  mqtt = tcp 1883;
  mqtts = tcp 8883 // {
    iana = "secure-mqtt";
  };
  mysql = tcp 3306;
  nfs = tcp 2049;
  ntp = udp 123;
  openvpn = udp 1194;
  pop3 = tcp 110;
  pop3s = tcp 995;
  postgresql = tcp 5432;
  redis = tcp 6379;
  rsync = tcp 873;
  sip = dns 5060;
  sip-tls = tcp 5061;
  smtp = tcp 25;
  smtps = tcp 465 // {
    iana = "submissions";
  };
  snmp = udp 161;
  ssh = tcp 22;
  submission = tcp 587;
  submissions = tcp 465;
  syslog = udp 514;
  telnet = tcp 23;
  tftp = udp 69;
  whois = tcp 43;
  wireguard = udp 51820;
  xmpp-client = tcp 5222;
  xmpp-server = tcp 5269;
}
