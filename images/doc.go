// Package images makes, finds, keeps and delivers container images without a
// container engine.
//
//   - [Layer], [LayerFromTar] and [New] assemble an image out of files; the same
//     input always gives the same digest.
//   - [Build] turns a Go main package into an image, and [Tag] names what it was
//     built from: the git commit, plus a content hash while the tree is dirty.
//   - [Cache] keeps images on disk as an OCI image layout, safe against a full
//     disk, a cancelled context and a second process.
//   - [Resolve] finds a third-party image: cache, then registry, then a source
//     of the caller's.
//   - [Load] brings images to the containerd of many nodes at once and sends each
//     only the blobs that it lacks; [Prune] takes earlier ones away again;
//     [LoadEngine] brings one to a Docker engine.
//   - [OpenArchive], [OpenLayout] and [OpenEngine] read what other programs made, to be
//     loaded or pushed.
//
// Images are go-containerregistry's v1.Image throughout. The package never
// prints: progress goes to the OnEvent func of each Config.
package images
