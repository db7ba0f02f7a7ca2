// Command uname prints the kernel's name for the machine, as uname -m: the node of a test has no
// userland.
package main

import (
	"fmt"
	"syscall"
)

func main() {
	var u syscall.Utsname
	if err := syscall.Uname(&u); err != nil {
		panic(err)
	}
	for _, c := range u.Machine {
		if c == 0 {
			break
		}
		fmt.Printf("%c", rune(c)) // the array is of int8 or of uint8
	}
	fmt.Println()
}
