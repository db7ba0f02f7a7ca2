package images

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// MissingImage is an image that a node does not hold as it should.
type MissingImage struct{ Node, Ref string }

func (m MissingImage) String() string { return m.Ref + " on " + m.Node }

// Missing asks every node whether it holds the images: under their names, with
// their digests, whole and unpacked. It changes nothing. Nodes are in the order
// given, and images of a node too; none are missing if the slice is empty and the
// error nil.
func Missing(ctx context.Context, nodes []Node, images []NamedImage, cfg LoadConfig) ([]MissingImage, error) {
	if cfg.Namespace == "" {
		cfg.Namespace = "k8s.io"
	}
	if len(nodes) == 0 {
		return nil, errors.New("ask for images: no nodes given")
	}
	wanted, err := wantedImages(images, cfg.Latest)
	if err != nil {
		return nil, fmt.Errorf("ask for images: %w", err)
	}
	perNode := make([][]wantedImage, len(nodes))
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, node := range nodes {
		all.Go(func() {
			l := nodeLoad{node: node, wanted: wanted, ctr: ctr{cfg.Namespace, cfg.Snapshotter}}
			found, err := l.look(ctx)
			if err != nil {
				errs[i] = fmt.Errorf("ask node %s for images: %w", node.Name(), err)
			}
			for _, f := range found {
				if f.standing != present {
					perNode[i] = append(perNode[i], f.image)
				}
			}
		})
	}
	all.Wait()
	var missing []MissingImage
	for i, node := range nodes {
		for _, w := range perNode[i] {
			missing = append(missing, MissingImage{node.Name(), w.ref})
		}
	}
	return missing, errors.Join(errs...)
}
