module github.com/org/spire-vault-99-action/internal/spireversions/v1.10.4

go 1.26.0

require github.com/spiffe/spire v1.10.4
