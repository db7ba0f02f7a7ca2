module github.com/org/spire-vault-99-action/internal/spireversions/v1.14.5

go 1.26.2

require github.com/spiffe/spire v1.14.5
