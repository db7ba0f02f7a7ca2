// Package vault runs Vault (or OpenBao) in a cluster for the workloads of an
// intent: it installs one server with an SVID as its TLS identity, initialises and
// unseals it, and keeps its configuration equal to what is wanted.
//
// No credential of it is static. The unseal key lies in one Secret of Vault's own
// namespace and nowhere else; root tokens are made out of it for one Configure each and
// revoked at its end; workloads log in with JWT-SVIDs, and get database users that
// Vault makes and removes.
package vault
