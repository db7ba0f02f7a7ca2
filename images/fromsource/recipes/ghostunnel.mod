module recipe.invalid/ghostunnel

go 1.26

require github.com/ghostunnel/ghostunnel v1.8.4
