module github.com/org/spire-vault-99-action/internal/spireversions/v1.9.0

go 1.26.0

require github.com/spiffe/spire v1.9.0
