package main

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
)

// The extent of a delta disk on VMFS ("Virtual Disk Format 5.0", "ESX Server Sparse Extents", COWDisk_Header): four
// sectors of header, a grain directory, and then grain tables and grains in the order in which they were first written.
// A grain is one sector, as the host makes them.
const (
	sector         = 512
	cowdMagic      = 0x44574f43 // "COWD", little-endian
	cowdHeader     = 4          // sectors
	grainsPerTable = 4096
	tableSectors   = grainsPerTable * 4 / sector
)

// cowd is an open delta extent. It holds only differences: what it does not hold, its parent does.
type cowd struct {
	file      *os.File
	directory []uint32 // sector of each grain table, 0: none yet
	free      uint32   // the next free sector, kept in the header
	capacity  int64    // sectors
}

// span is a byte range of a disk.
type span struct{ start, length int64 }

func (s span) end() int64 { return s.start + s.length }

func createCOWD(file string, sectors int64) error {
	entries := (sectors + grainsPerTable - 1) / grainsPerTable
	directorySectors := (entries*4 + sector - 1) / sector
	head := make([]byte, (cowdHeader+directorySectors)*sector)
	for i, field := range []uint32{
		cowdMagic, 1, 3, uint32(sectors), 1, cowdHeader, uint32(entries), uint32(cowdHeader + directorySectors),
	} {
		binary.LittleEndian.PutUint32(head[i*4:], field)
	}
	return os.WriteFile(file, head, 0o600)
}

func openCOWD(file string, flags int) (*cowd, error) {
	f, err := os.OpenFile(file, flags, 0)
	if err != nil {
		return nil, err
	}
	head := make([]byte, 32)
	if _, err = f.ReadAt(head, 0); err == nil && binary.LittleEndian.Uint32(head) != cowdMagic {
		err = errors.New(file + ": not a COWD extent")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	c := &cowd{
		file:      f,
		capacity:  int64(binary.LittleEndian.Uint32(head[12:])),
		directory: make([]uint32, binary.LittleEndian.Uint32(head[24:])),
		free:      binary.LittleEndian.Uint32(head[28:]),
	}
	if err = binary.Read(io.NewSectionReader(f, cowdHeader*sector, int64(len(c.directory))*4), binary.LittleEndian, c.directory); err != nil {
		f.Close()
		return nil, err
	}
	return c, nil
}

func (c *cowd) close() error { return c.file.Close() }

func (c *cowd) table(index int64) ([]uint32, error) {
	grains := make([]uint32, grainsPerTable)
	if c.directory[index] == 0 {
		return grains, nil
	}
	from := io.NewSectionReader(c.file, int64(c.directory[index])*sector, grainsPerTable*4)
	return grains, binary.Read(from, binary.LittleEndian, grains)
}

// allocated lists the ranges this extent holds, in order, each the longest it can be.
func (c *cowd) allocated() (held []span, err error) {
	for index := range c.directory {
		if c.directory[index] == 0 {
			continue
		}
		grains, err := c.table(int64(index))
		if err != nil {
			return nil, err
		}
		for i, at := range grains {
			if at == 0 {
				continue
			}
			start := (int64(index)*grainsPerTable + int64(i)) * sector
			if last := len(held) - 1; last >= 0 && held[last].end() == start {
				held[last].length += sector
			} else {
				held = append(held, span{start, sector})
			}
		}
	}
	return held, nil
}

// overlay puts the sectors this extent holds over what buf has of the range from offset; both lie on sectors.
func (c *cowd) overlay(buf []byte, offset int64) error {
	for done := int64(0); done < int64(len(buf)); {
		number := (offset + done) / sector
		index, first := number/grainsPerTable, number%grainsPerTable
		count := min64(grainsPerTable-first, (int64(len(buf))-done)/sector)
		if c.directory[index] != 0 {
			grains, err := c.table(index)
			if err != nil {
				return err
			}
			for i := int64(0); i < count; i++ {
				if at := grains[first+i]; at != 0 {
					into := buf[done+i*sector : done+(i+1)*sector]
					if _, err := c.file.ReadAt(into, int64(at)*sector); err != nil {
						return err
					}
				}
			}
		}
		done += count * sector
	}
	return nil
}

// write stores whole sectors, giving each that is new to this extent the next free sector of the file.
func (c *cowd) write(data []byte, offset int64) error {
	for len(data) > 0 {
		number := offset / sector
		index, first := number/grainsPerTable, number%grainsPerTable
		count := min64(grainsPerTable-first, int64(len(data))/sector)
		if err := c.writeTable(index, first, data[:count*sector]); err != nil {
			return err
		}
		data, offset = data[count*sector:], offset+count*sector
	}
	return c.saveHeader()
}

func (c *cowd) writeTable(index, first int64, data []byte) error {
	grains, err := c.table(index)
	if err != nil {
		return err
	}
	if c.directory[index] == 0 {
		c.directory[index] = c.take(tableSectors)
	}
	for i := 0; i < len(data)/sector; i++ {
		at := &grains[first+int64(i)]
		if *at == 0 {
			*at = c.take(1)
		}
		if _, err := c.file.WriteAt(data[i*sector:(i+1)*sector], int64(*at)*sector); err != nil {
			return err
		}
	}
	return c.putWords(grains, int64(c.directory[index])*sector)
}

func (c *cowd) take(sectors uint32) uint32 {
	at := c.free
	c.free += sectors
	return at
}

// saveHeader comes last: a directory must not name a table that is not there.
func (c *cowd) saveHeader() error {
	if err := c.putWords(c.directory, cowdHeader*sector); err != nil {
		return err
	}
	return c.putWords([]uint32{c.free}, 28)
}

func (c *cowd) putWords(words []uint32, at int64) error {
	raw := make([]byte, 4*len(words))
	for i, word := range words {
		binary.LittleEndian.PutUint32(raw[4*i:], word)
	}
	_, err := c.file.WriteAt(raw, at)
	return err
}

func min64(a, b int64) int64 {
	if a < b {
		return a
	}
	return b
}

func max64(a, b int64) int64 {
	if a > b {
		return a
	}
	return b
}
