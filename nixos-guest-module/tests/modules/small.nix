# The least that an instance can be.
{ }
