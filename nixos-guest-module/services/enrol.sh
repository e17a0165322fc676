# The instance's certificate by EST (RFC 7030, RFC 8951): makes the key, asks the platform's authority, and asks again when two
# thirds of the certificate's time are over. Run by the unit seed-tls-enrol, which is started again and again; it does
# nothing while the certificate is good. What it needs to know is in the environment: SEED_EST_URL, SEED_INSTANCE and
# SEED_NAMESPACE from the platform, SEED_TLS_* from the unit (enrolment.nix). It runs with `set -euo pipefail`.

key=$SEED_TLS_KEY certificate=$SEED_TLS_CERTIFICATE authority=$SEED_TLS_AUTHORITY
instance=${SEED_INSTANCE:-} namespace=${SEED_NAMESPACE:-default}
say() { echo "seed-tls-enrol: $*" >&2; }

url=${SEED_EST_URL:-}
if [ -z "$url" ]; then
  say "this platform has no certificate authority: SEED_EST_URL is not set"
  say "Put a certificate at $certificate by other means, or ask the platform's operator."
  exit 0
fi
case $url in
  https://*) ;;
  *)
    say "SEED_EST_URL is $url, and certificates are fetched by https:// alone"
    say "Ask the platform's operator for another address."
    exit 78
    ;;
esac
url=${url%/}
case $url in
  */.well-known/est | */.well-known/est/*) ;;
  *) url=$url/.well-known/est ;;
esac
# They become part of names.
case $instance$namespace in
  *[!a-z0-9-]*)
    say "the instance $instance in $namespace: only small letters, digits and \"-\" can be in a certificate's name"
    exit 78
    ;;
esac

# Whether the certificate is the key's, and a third of its time is left.
is_good() {
  local begin end
  [ -s "$key" ] && [ -s "$certificate" ] && [ -s "$authority" ] || return 1
  [ "$(openssl x509 -in "$certificate" -noout -pubkey)" = "$(openssl pkey -in "$key" -pubout)" ] || return 1
  begin=$(date --date "$(openssl x509 -in "$certificate" -noout -startdate | cut -d = -f 2)" +%s)
  end=$(date --date "$(openssl x509 -in "$certificate" -noout -enddate | cut -d = -f 2)" +%s)
  openssl x509 -in "$certificate" -noout -checkend $(((end - begin) / 3)) > /dev/null
}

# ask OPERATION FILE [ARGUMENT...]: the certificates that the authority answers with, as PEM.
ask() {
  local operation=$1 file=$2 status
  shift 2
  status=$(curl --silent --show-error --proto '=https' --max-time 60 --max-filesize 1048576 \
    --retry 5 --retry-connrefused --retry-max-time 60 \
    ${SEED_TLS_EST_AUTHORITY:+--cacert "$SEED_TLS_EST_AUTHORITY"} \
    --output "$work/answer" --write-out '%{http_code}' "$@" "$url/$operation") || return 1
  case $status in
    200) base64 --decode --ignore-garbage "$work/answer" | openssl pkcs7 -inform DER -print_certs \
      | sed -n '/^-----BEGIN/,/^-----END/p' > "$file" ;;
    202)
      say "$url/$operation: the authority has not decided yet"
      return 1
      ;;
    *)
      say "$url/$operation answered $status: $(head --bytes 200 "$work/answer" | tr --complement --delete '[:print:]')"
      return 1
      ;;
  esac
}

# enrol OPERATION [ARGUMENT...]
enrol() {
  local operation=$1
  shift
  ask "$operation" "$work/certificate" --header 'Content-Type: application/pkcs10' \
    --header 'Content-Transfer-Encoding: base64' --data-binary "@$work/request" "$@"
}

if is_good; then
  exit 0
fi
work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT
mkdir -p "$(dirname "$key")" "$(dirname "$certificate")" "$(dirname "$authority")"
umask 077
if [ ! -s "$key" ]; then
  "$SEED_TLS_AGENT" --tls-key > "$key.new"
  mv "$key.new" "$key"
fi

# Names that Kubernetes gives to what is in a namespace, and one for mutual TLS (SPIFFE).
host=$instance.$namespace
openssl req -new -propquery '?provider=tpm2' -key "$key" -subj "/CN=$host" -outform DER -out "$work/request.der" \
  -addext "subjectAltName=DNS:$instance,DNS:$host,DNS:$host.svc,DNS:$host.svc.cluster.local,URI:spiffe://$SEED_TLS_TRUST_DOMAIN/$namespace/$instance"
base64 "$work/request.der" > "$work/request"

ask cacerts "$work/authority"
# The old certificate vouches for the new one; where it cannot any more, the platform has to know the instance anew.
first=start
if [ -s "$certificate" ]; then
  first=try-restart
  enrol simplereenroll --cert "$certificate" --key "$key" || enrol simpleenroll
else
  enrol simpleenroll
fi
if [ "$(openssl x509 -in "$work/certificate" -noout -pubkey)" != "$(openssl pkey -in "$key" -pubout)" ]; then
  say "$url answered with a certificate for another key"
  exit 1
fi
openssl verify -CAfile "$work/authority" -untrusted "$work/certificate" "$work/certificate" > /dev/null

umask 022
for file in authority certificate; do
  cp --no-preserve=mode "$work/$file" "${!file}.new"
  mv "${!file}.new" "${!file}"
done
say "the certificate of $host is good until $(openssl x509 -in "$certificate" -noout -enddate | cut -d = -f 2)"
# Whoever was waiting for it, or has the old one open.
if [ -n "${SEED_TLS_USERS:-}" ]; then
  # shellcheck disable=SC2086
  systemctl --no-block "$first" $SEED_TLS_USERS
fi
