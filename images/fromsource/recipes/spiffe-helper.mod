module recipe.invalid/spiffe-helper

go 1.26

require github.com/spiffe/spiffe-helper v0.11.0
