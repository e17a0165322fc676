# The tiers of `seed.size`. The host has the same table (host-shim/src/spec/bootspec.rs); a test of
# `seed-shim` compares the two.
{
  xs = {
    vcpus = 1;
    memoryMiB = 512;
  };
  s = {
    vcpus = 1;
    memoryMiB = 1024;
  };
  m = {
    vcpus = 2;
    memoryMiB = 2048;
  };
  l = {
    vcpus = 4;
    memoryMiB = 4096;
  };
  xl = {
    vcpus = 8;
    memoryMiB = 8192;
  };
}
