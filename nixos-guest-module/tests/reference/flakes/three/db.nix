{
  services.postgresql.enable = true;
  seed.expose.postgresql.enable = true;
  seed.storage.db = { size = "10Gi"; mountPoint = "/var/lib/postgresql"; user = "postgres"; group = "postgres"; };
}
