// Package fromsource builds third-party images, the kind node image among
// them, out of Go modules and Debian packages: for machines that reach no
// image registry, and for people who want to know what is in an image.
//
// What is built is declared in recipes/: NAME.yaml says which commands of which
// module go into which image, NAME.mod and NAME.sum pin every module behind
// them. A build is keyed by its recipe, so a second one finds its image in the
// cache and does nothing. Debian's packages are pinned by suite, not by version:
// a rebuild after a point release can differ.
//
// Building needs the go command, for SPIRE a C compiler, and for images with a
// Debian userland root and the programs of [HostPackages].
package fromsource
